//! Generates the messages from `proto/` without needing `protoc` on the machine.

use std::error::Error;
use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    let proto = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", proto.join("process").display());
    println!("cargo:rerun-if-changed={}", proto.join("filesystem").display());
    let descriptors = protox::compile(["process/process.proto", "filesystem/filesystem.proto"], [&proto])?;
    prost_build::Config::new()
        .compile_well_known_types()
        .extern_path(".google.protobuf", "::pbjson_types")
        .btree_map(["."])
        .compile_fds(descriptors.clone())?;
    pbjson_build::Builder::new()
        .register_descriptors(&descriptors.encode_to_vec())?
        .btree_map(["."])
        .ignore_unknown_fields()
        .build(&[".process", ".filesystem"])?;
    Ok(())
}
