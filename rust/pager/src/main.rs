//! wrenn's page-fault server: fills the memory of one restored VM when it is needed.
//!
//! - [`handshake`]: the VMM connects and sends the descriptor of its memory, and [`regions`]: where that is;
//! - [`image`]: what the memory contains, of which [`diff`] is the part of a snapshot;
//! - [`server`]: the loop; [`order`]: which pages are filled before they are needed.
//!
//! It opens nothing: all files are descriptors that it inherits. It ends when the VMM does. docs/design/pager.md has the rest.

mod diff;
mod handshake;
mod image;
mod order;
mod regions;
mod server;

use std::error::Error;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use image::Image;
use order::Recorder;
use regions::Regions;
use server::Server;
use sys::userfault::Userfault;
use sys::{inherited, seccomp};

const USAGE: &str =
    "usage: pager --version | pager --socket FD --image FD [--diff FD] [--order FD] [--record FD] [--chunk-pages N]";
/// 64 KiB: neighbours are often needed too, and one call for 16 pages costs little more than for one.
const CHUNK_PAGES: u64 = 16;
/// 2 MiB.
const LARGEST_CHUNK_PAGES: u64 = 512;

/// Whatever the memory and messages of a VM make it do, it can make no other calls once it has opened its files.
const CALLS: &[libc::c_long] = &[
    // Its work.
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_ioctl,
    libc::SYS_write,
    // The VMM's message.
    libc::SYS_accept4,
    libc::SYS_getsockopt,
    libc::SYS_geteuid,
    libc::SYS_recvmsg,
    libc::SYS_fcntl,
    libc::SYS_close,
    // Memory.
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // The end, in order or by a panic.
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_futex,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_tgkill,
];

/// Descriptors and numbers of the command line.
#[derive(Default)]
struct Arguments {
    socket: Option<OwnedFd>,
    image: Option<File>,
    diff: Option<File>,
    order: Option<File>,
    record: Option<File>,
    chunk_pages: u64,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    if arguments == ["--version"] {
        println!("pager {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let Some(arguments) = parse(&arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pager: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Takes over the descriptors; None if an argument is not understood.
fn parse(arguments: &[String]) -> Option<Arguments> {
    let mut parsed = Arguments { chunk_pages: CHUNK_PAGES, ..Arguments::default() };
    for pair in arguments.chunks(2) {
        let [name, value] = pair else { return None };
        let descriptor = || inherited::take(value.parse().ok()?).ok();
        match name.as_str() {
            "--socket" => parsed.socket = Some(descriptor()?),
            "--image" => parsed.image = Some(descriptor()?.into()),
            "--diff" => parsed.diff = Some(descriptor()?.into()),
            "--order" => parsed.order = Some(descriptor()?.into()),
            "--record" => parsed.record = Some(descriptor()?.into()),
            "--chunk-pages" => {
                parsed.chunk_pages = value.parse().ok().filter(|pages| (1..=LARGEST_CHUNK_PAGES).contains(pages))?;
            }
            _ => return None,
        }
    }
    (parsed.socket.is_some() && parsed.image.is_some()).then_some(parsed)
}

fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let (Some(socket), Some(image)) = (arguments.socket, arguments.image) else { return Err(USAGE.into()) };
    let mut image = Image::new(&image).map_err(|error| format!("the memory image cannot be used: {error}"))?;
    if let Some(diff) = arguments.diff {
        image.set_diff(&diff)?;
    }
    let order = match arguments.order {
        Some(file) => order::read(&file, image.pages())?,
        None => Vec::new().into_iter(),
    };
    seccomp::allow_only(CALLS)?;
    let message = handshake::receive(socket)?;
    let regions = Regions::parse(&message.mappings, image.pages())?;
    let memory = Userfault::new(message.memory)?;
    let recorder = arguments.record.map(Recorder::new);
    let server = Server::new(image, regions, memory, message.connection, arguments.chunk_pages, order, recorder);
    let figures = server.run()?;
    let _ = writeln!(io::stderr(), "pager: the VM has ended: {figures}");
    Ok(())
}
