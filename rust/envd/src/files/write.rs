//! `POST /files`.
//!
//! An interrupted upload changes nothing. Content of up to [`GATHER`] is received as a whole and then written
//! in place: the file is created, its owner set, its content written. The order is fixed, and there is no
//! temporary name: clients count the events that watchers see. Larger content, and any with `atomic=true`, is
//! written to a temporary file that then replaces the target: see [`replace`]. Without `atomic`, a target
//! that cannot be replaced, such as a device, is written in place nevertheless.
//!
//! [`replace`]: crate::files::replace

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde::Serialize;
use sys::rustix;
use sys::rustix::fs::{Mode, OFlags, XattrFlags};
use sys::rustix::io::Errno;

use crate::agent::Agent;
use crate::body::Body;
use crate::files::inflate::Upload;
use crate::files::multipart::{self, Multipart};
use crate::files::owner::{self, Owner};
use crate::files::query::Query;
use crate::files::replace::{Durability, Replacement};
use crate::files::{FilesError, read};
use crate::filesystem::as_user;
use crate::filesystem::entry::{self, METADATA_PREFIX};
use crate::filesystem::fault::Fault;
use crate::filesystem::make_dir::make_all;
use crate::paths;
use crate::server::access::has_token;
use crate::server::reply;
use crate::users::User;

/// Mode of new files.
const FILE_MODE: u32 = 0o644;
/// Bytes buffered before a write: a file up to this size is opened once it is complete, a larger one is
/// written in few calls.
const GATHER: usize = 512 * 1024;
/// The header that carries metadata.
const METADATA_HEADER: &str = "x-metadata-";
/// Longest key: Linux allows names of 255 bytes, minus the prefix.
const MAX_KEY_BYTES: usize = 246;
/// Longest metadata of one file.
const MAX_METADATA_BYTES: usize = 4096;
/// Longest value of an extended attribute, and longest list of attribute names of a file: Linux's own limits.
const MAX_ATTRIBUTE_BYTES: usize = 64 * 1024;
/// How long a client may still send after the response is known.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(30);

/// The description of a written file.
#[derive(Debug, Serialize)]
struct Written {
    /// Its file name.
    name: String,
    /// Where it is.
    path: String,
    /// Always `file`.
    r#type: &'static str,
    /// The metadata as given.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
}

/// A request without its body.
#[derive(Clone)]
struct UploadRequest {
    /// The acting user.
    user: User,
    /// The path in the query.
    path: Option<PathBuf>,
    /// For every file of the request.
    metadata: BTreeMap<String, String>,
    /// Permission bits, if given.
    mode: Option<u32>,
    /// The owner, if it is not the acting user.
    owner: Option<Owner>,
    /// Whether it replaces the old file atomically.
    atomic: bool,
}

/// Handles `POST`.
pub async fn answer(agent: &Arc<Agent>, request: Request<Incoming>) -> Response<Body> {
    match take(agent, request).await {
        Ok(written) => reply::json(StatusCode::OK, &written),
        Err(error) => error.answer(),
    }
}

async fn take(agent: &Arc<Agent>, request: Request<Incoming>) -> Result<Vec<Written>, FilesError> {
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let headers = request.headers();
    let user = query.admit(agent, has_token(agent, headers), "write")?;
    let path = query.name()?.map(|n| paths::resolve(&n, &user.home));
    let (mode, atomic) = (query.mode_bits()?, query.is_atomic()?);
    let owner = query.owner.as_deref().map(|text| owner::parse(agent, text)).transpose()?;
    let upload = UploadRequest { path, metadata: metadata_of(headers)?, user, mode, owner, atomic };
    let text = |name: header::HeaderName| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let (encoding, content_type) = (text(header::CONTENT_ENCODING), text(header::CONTENT_TYPE).unwrap_or_default());
    let mut body = Upload::new(request.into_body(), encoding.as_deref())?;
    if let Some(boundary) = multipart::boundary(&content_type) {
        let mut form = Multipart::new(body, &boundary);
        let outcome = take_form(agent, &upload, &mut form).await;
        // This also reads the epilogue of a valid form.
        let _ = tokio::time::timeout(DISCARD_TIMEOUT, form.discard()).await;
        outcome
    } else {
        let outcome = take_raw(agent, &upload, &mut body).await;
        let _ = tokio::time::timeout(DISCARD_TIMEOUT, body.discard()).await;
        outcome
    }
}

/// Parses the metadata headers: keys in lower case, values in printable ASCII.
fn metadata_of(headers: &HeaderMap) -> Result<BTreeMap<String, String>, FilesError> {
    let mut found = BTreeMap::new();
    let mut length = 0;
    for (name, value) in headers {
        let Some(key) = name.as_str().strip_prefix(METADATA_HEADER) else { continue };
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            return Err(FilesError::Invalid(format!("a metadata key must be 1 to {MAX_KEY_BYTES} characters")));
        }
        let value = value.as_bytes();
        let printable = |b: &u8| b.is_ascii_graphic() || *b == b' ';
        let text = std::str::from_utf8(value).ok().filter(|_| value.iter().all(printable));
        let text = text.ok_or_else(|| FilesError::Invalid(format!("metadata {key:?} must be printable ASCII")))?;
        length += key.len() + text.len();
        found.insert(key.to_owned(), text.to_owned());
    }
    if length > MAX_METADATA_BYTES {
        return Err(FilesError::Invalid(format!("the metadata is longer than {MAX_METADATA_BYTES} bytes")));
    }
    Ok(found)
}

async fn take_raw(agent: &Arc<Agent>, upload: &UploadRequest, body: &mut Upload) -> Result<Vec<Written>, FilesError> {
    let path = upload.path.clone().ok_or_else(|| FilesError::Invalid("the path is missing".into()))?;
    let mut sink = Sink::new(path);
    while let Some(bytes) = body.next().await? {
        sink.push(agent, upload, bytes).await?;
    }
    Ok(vec![sink.finish(agent, upload).await?])
}

async fn take_form(
    agent: &Arc<Agent>,
    upload: &UploadRequest,
    form: &mut Multipart,
) -> Result<Vec<Written>, FilesError> {
    let mut written = Vec::new();
    while let Some(head) = form.next_part().await? {
        if head.name.as_deref() != Some("file") {
            continue;
        }
        let path = match (&upload.path, head.filename.filter(|f| !f.is_empty())) {
            (Some(_), _) if !written.is_empty() => {
                return Err(FilesError::Invalid("with a path in the query there may be only one file".into()));
            }
            (Some(path), _) => path.clone(),
            (None, Some(name)) => paths::resolve(&paths::to_name(&name), &upload.user.home),
            (None, None) => return Err(FilesError::Invalid("a file has no name, and the query has no path".into())),
        };
        let mut sink = Sink::new(path);
        while let Some(bytes) = form.next_bytes().await? {
            sink.push(agent, upload, bytes).await?;
        }
        written.push(sink.finish(agent, upload).await?);
    }
    if written.is_empty() {
        return Err(FilesError::Invalid("the body holds no part named 'file'".into()));
    }
    Ok(written)
}

/// A file that is being written.
struct Sink {
    /// The path.
    path: PathBuf,
    /// The temporary file that is to replace it.
    replacement: Option<Replacement>,
    /// `None` before it was opened, and while a thread writes to it.
    file: Option<File>,
    /// Whether it was opened.
    is_open: bool,
    /// Not written yet.
    gathered: Vec<u8>,
}

/// Whether content of this size fits on the disk in place of what the file contains. Checked before the file
/// is truncated, so that a full disk does not cost the old content.
fn fits_on_disk(file: &File, size: u64) -> bool {
    let (Ok(about), Ok(disk)) = (file.metadata(), rustix::fs::fstatvfs(file)) else { return true };
    let free = if rustix::process::geteuid().is_root() { disk.f_bfree } else { disk.f_bavail };
    // Virtual file systems report no blocks.
    disk.f_blocks == 0 || size <= free.saturating_mul(disk.f_frsize) + about.blocks() * 512
}

/// Creates the file, or truncates the existing one, for content of `size` bytes. Also returns whether it is
/// new.
fn open_in_place(upload: &UploadRequest, path: &Path, size: u64) -> Result<(File, bool), Fault> {
    let fault = |e: std::io::Error| Fault::new("write", path, e);
    let attempt = |flags: OFlags| {
        // The kernel accepts a mode only with O_CREAT.
        let mode = if flags.contains(OFlags::CREATE) { FILE_MODE } else { 0 };
        read::open(path, OFlags::WRONLY | flags, Mode::from_raw_mode(mode))
    };
    let (file, is_new) = match attempt(OFlags::CREATE | OFlags::EXCL) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => match attempt(OFlags::empty()) {
            // A symbolic link to a file that does not exist yet.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                (attempt(OFlags::CREATE).map_err(fault)?, true)
            }
            other => (other.map_err(fault)?, false),
        },
        other => (other.map_err(fault)?, true),
    };
    if !file.metadata().map_err(fault)?.is_file() {
        return Err(Fault::errno("write", path, Errno::INVAL));
    }
    if !is_new {
        if !fits_on_disk(&file, size) {
            return Err(Fault::errno("write", path, Errno::NOSPC));
        }
        file.set_len(0).map_err(fault)?;
    }
    for old in entry::metadata(path).into_keys().filter(|k| !upload.metadata.contains_key(k)) {
        rustix::fs::fremovexattr(&file, format!("{METADATA_PREFIX}{old}")).map_err(|e| fault(e.into()))?;
    }
    Ok((file, is_new))
}

/// Returns the owner of a new file if none is given.
fn owner_of_new(agent: &Agent, upload: &UploadRequest, file: &File) -> Owner {
    let own = Owner::of(&upload.user.ids);
    // The home is looked up for the file as for a directory: both are in the same home.
    Owner::of_new_entry(agent, &upload.user.ids, file).unwrap_or(own)
}

/// Sets owner, mode and metadata, in this order: a change of owner clears setuid.
fn set_attributes(
    upload: &UploadRequest,
    path: &Path,
    file: &File,
    usual: Option<Owner>,
    mode: Option<u32>,
) -> Result<(), Fault> {
    let (user, metadata) = (&upload.user, &upload.metadata);
    let fault = |e: std::io::Error| Fault::new("write", path, e);
    let about = file.metadata().map_err(fault)?;
    if let Some(owner) = upload.owner.or(usual) {
        let (uid, gid) = owner.ids();
        // Only root can change an owner: if it was not requested explicitly, the file keeps the writer's.
        if let Err(error) = rustix::fs::fchown(file, uid, gid)
            && (upload.owner.is_some() || about.uid() == user.ids.uid && owner == Owner::of(&user.ids))
        {
            return Err(fault(error.into()));
        }
    }
    if let Some(mode) = mode {
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode)).map_err(|e| fault(e.into()))?;
    }
    for (key, value) in metadata {
        rustix::fs::fsetxattr(file, format!("{METADATA_PREFIX}{key}"), value.as_bytes(), XattrFlags::empty())
            .map_err(|e| fault(e.into()))?;
    }
    Ok(())
}

/// Opens the file for content of `size` bytes; `None`: more than was buffered.
fn open_for(
    agent: &Agent,
    upload: &UploadRequest,
    path: &Path,
    size: Option<u64>,
) -> Result<(File, Option<Replacement>), Fault> {
    if upload.atomic {
        return replace_for(agent, upload, path);
    }
    if size.is_none() && may_be_replaced(path) {
        let replaced = replace_for(agent, upload, path);
        // A directory may be read-only while its files are writable.
        if replaced.is_ok() {
            return replaced;
        }
    }
    let (file, is_new) = open_in_place(upload, path, size.unwrap_or(0))?;
    let usual = is_new.then(|| owner_of_new(agent, upload, &file));
    set_attributes(upload, path, &file, usual, upload.mode)?;
    Ok((file, None))
}

/// Whether the file can be replaced without side effects: not if it has several names or is not a regular
/// file.
fn may_be_replaced(path: &Path) -> bool {
    match std::fs::metadata(path) {
        Ok(about) => about.is_file() && about.nlink() == 1,
        // Not a broken symbolic link.
        Err(_) => std::fs::symlink_metadata(path).is_err(),
    }
}

fn replace_for(agent: &Agent, upload: &UploadRequest, path: &Path) -> Result<(File, Option<Replacement>), Fault> {
    let (replacement, file, former) = Replacement::begin(path, &upload.user.ids)?;
    if former.is_some() {
        copy_attributes(path, &file);
    }
    let usual = former.map_or_else(|| owner_of_new(agent, upload, &file), |former| former.owner);
    let mode = upload.mode.or(former.map(|former| former.mode)).unwrap_or(FILE_MODE);
    set_attributes(upload, path, &file, Some(usual), Some(mode))?;
    Ok((file, Some(replacement)))
}

/// Copies the extended attributes of the replaced file: access lists and attributes set by programs. Metadata
/// comes with the request, and capabilities are dropped together with the content that they were granted to.
fn copy_attributes(from: &Path, to: &File) {
    let (mut names, mut value) = (vec![0; MAX_ATTRIBUTE_BYTES], vec![0; MAX_ATTRIBUTE_BYTES]);
    let Ok(length) = rustix::fs::listxattr(from, &mut names) else { return };
    for name in names.get(..length).unwrap_or_default().split(|b| *b == 0).filter(|n| !n.is_empty()) {
        if name.starts_with(METADATA_PREFIX.as_bytes()) || name == b"security.capability" {
            continue;
        }
        if let Ok(length) = rustix::fs::getxattr(from, name, &mut value) {
            // Attributes that this user may not set are skipped.
            let value = value.get(..length).unwrap_or_default();
            let _ = rustix::fs::fsetxattr(to, name, value, XattrFlags::empty());
        }
    }
}

/// Replaces the target. If replacement was not requested explicitly and is not possible, because of a mount
/// or the directory's permissions, the content is copied into the file.
fn commit(agent: &Agent, upload: &UploadRequest, replacement: Replacement, mut file: File) -> Result<(), Fault> {
    if upload.atomic {
        return replacement.commit(&file, Durability::Flushed);
    }
    let path = replacement.path().to_owned();
    let fault = |e: std::io::Error| Fault::new("write", &path, e);
    match replacement.commit(&file, Durability::Written) {
        Err(error) if error.is_refusal() => {
            let size = file.metadata().map_err(fault)?.len();
            let (mut target, is_new) = open_in_place(upload, &path, size)?;
            let usual = is_new.then(|| owner_of_new(agent, upload, &target));
            set_attributes(upload, &path, &target, usual, upload.mode)?;
            file.rewind().map_err(fault)?;
            std::io::copy(&mut file, &mut target).map_err(fault)?;
            Ok(())
        }
        other => other,
    }
}

impl Sink {
    fn new(path: PathBuf) -> Self {
        Self { path, replacement: None, file: None, is_open: false, gathered: Vec::new() }
    }

    async fn open(&mut self, agent: &Arc<Agent>, upload: &UploadRequest, size: Option<u64>) -> Result<(), FilesError> {
        let path = self.path.clone();
        let attempt = async || {
            let (upload, path) = (upload.clone(), path.clone());
            let user = upload.user.clone();
            as_user(agent, &user, move |agent| open_for(agent, &upload, &path, size)).await
        };
        let (file, replacement) = match attempt().await {
            Err(fault) if fault.is_missing() => {
                let parent = path.parent().unwrap_or(Path::new("/")).to_owned();
                let acting = upload.user.ids.clone();
                as_user(agent, &upload.user, move |agent| make_all(agent, &acting, &parent)).await?;
                // A watch must exist on the new directory before the file appears in it.
                agent.watchers.read_all(agent).await;
                attempt().await?
            }
            other => other?,
        };
        (self.replacement, self.file, self.is_open) = (replacement, Some(file), true);
        Ok(())
    }

    async fn push(&mut self, agent: &Arc<Agent>, upload: &UploadRequest, bytes: Bytes) -> Result<(), FilesError> {
        if self.gathered.len() + bytes.len() > GATHER {
            if !self.is_open {
                self.open(agent, upload, None).await?;
            }
            self.flush(agent).await?;
        }
        self.gathered.extend_from_slice(&bytes);
        Ok(())
    }

    async fn flush(&mut self, agent: &Agent) -> Result<(), FilesError> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        // The file is missing only if a worker died.
        let lost = || Fault::new("write", &self.path, std::io::Error::other("the file was given up"));
        let mut file = self.file.take().ok_or_else(lost)?;
        let bytes = std::mem::take(&mut self.gathered);
        let done = agent.threads.files.run(move || {
            let outcome = file.write_all(&bytes);
            (file, bytes, outcome)
        });
        let died = |error| Fault::new("write", &self.path, error);
        let (file, mut bytes, outcome) = done.await.map_err(died)?;
        outcome.map_err(|e| Fault::new("write", &self.path, e))?;
        bytes.clear();
        self.gathered = bytes;
        self.file = Some(file);
        Ok(())
    }

    async fn finish(mut self, agent: &Arc<Agent>, upload: &UploadRequest) -> Result<Written, FilesError> {
        if !self.is_open {
            self.open(agent, upload, Some(self.gathered.len() as u64)).await?;
        }
        self.flush(agent).await?;
        if let (Some(replacement), Some(file)) = (self.replacement.take(), self.file.take()) {
            let upload = upload.clone();
            as_user(agent, &upload.user.clone(), move |agent| commit(agent, &upload, replacement, file)).await?;
        }
        drop(self.file);
        agent.watchers.read_all(agent).await;
        Ok(Written {
            name: paths::to_text(self.path.file_name().unwrap_or(OsStr::new("/"))),
            path: paths::to_text(&self.path),
            r#type: "file",
            metadata: upload.metadata.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_checked() {
        let headers = |name: &str, value: &str| {
            let name = header::HeaderName::from_bytes(name.as_bytes()).expect("a name");
            HeaderMap::from_iter([(name, header::HeaderValue::from_bytes(value.as_bytes()).expect("a value"))])
        };
        let found = metadata_of(&headers("X-Metadata-Author", "me")).expect("good");
        assert_eq!(found.get("author").map(String::as_str), Some("me"));
        assert!(metadata_of(&headers("x-metadata-a", "\u{e4}")).is_err());
        assert!(metadata_of(&headers(&format!("x-metadata-{}", "k".repeat(247)), "v")).is_err());
        assert!(metadata_of(&headers("x-metadata-a", &"v".repeat(4097))).is_err());
        assert!(metadata_of(&headers("content-type", "x")).expect("none").is_empty());
    }
}
