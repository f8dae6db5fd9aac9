//! The root disk and what is mounted on it.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use sys::rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use sys::rustix::io::Errno;
use sys::rustix::mount::{MountFlags, mount};
use sys::rustix::{self};

use super::{AtStep as _, Stage1Error};

/// Where the disk is mounted before it becomes the root.
pub const NEW_ROOT: &str = "/newroot";
/// The agent's place in the new root; on a tmpfs, so that the image need not contain it.
pub const AGENT_PATH: &str = "/run/wrenn/envd";
/// How long the disk may take to appear once its driver is loaded.
const DISK_TIMEOUT: Duration = Duration::from_secs(10);
/// Devices whose module the kernel loads when a program opens them, as listed by `kmod static-nodes`: name,
/// mode, numbers.
const MODULE_DEVICES: [(&str, u32, u32, u32); 3] =
    [("fuse", 0o666, 10, 229), ("net/tun", 0o666, 10, 200), ("loop-control", 0o660, 10, 237)];
/// Interval of checks.
const POLL: Duration = Duration::from_millis(2);

fn make_dir(path: &str, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn mount_new(kind: &str, at: &str, flags: MountFlags, options: &str) -> Result<(), Stage1Error> {
    make_dir(at, 0o755).at(format!("make {at}"))?;
    let options = std::ffi::CString::new(options).unwrap_or_default();
    match mount(kind, at, kind, flags, Some(options.as_c_str())) {
        Err(Errno::BUSY) => Ok(()),
        other => other.at(format!("mount {kind} at {at}")),
    }
}

/// Mounts `/proc`, `/sys`, `/dev` and the file systems below them; they are moved to the new root later.
pub fn mount_kernel_views() -> Result<(), Stage1Error> {
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_new("proc", "/proc", plain, "")?;
    mount_new("sysfs", "/sys", plain, "")?;
    mount_new("devtmpfs", "/dev", MountFlags::NOSUID, "mode=755")?;
    mount_new("devpts", "/dev/pts", MountFlags::NOSUID | MountFlags::NOEXEC, "gid=5,mode=620,ptmxmode=666")?;
    mount_new("tmpfs", "/dev/shm", MountFlags::NOSUID | MountFlags::NODEV, "mode=1777")?;
    for (link, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        let link = Path::new("/dev").join(link);
        match symlink(target, &link) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).at(format!("link {}", link.display()));
            }
            _ => {}
        }
    }
    for (name, mode, major, minor) in MODULE_DEVICES {
        let path = Path::new("/dev").join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).at(format!("make {}", folder.display()))?;
        }
        match mknodat(CWD, &path, FileType::CharacterDevice, Mode::from_raw_mode(mode), makedev(major, minor)) {
            Err(Errno::EXIST) => {}
            other => other.at(format!("make {}", path.display()))?,
        }
        // Not affected by the umask.
        rustix::fs::chmod(&path, Mode::from_raw_mode(mode)).at(format!("open {}", path.display()))?;
    }
    // Programs run without it if the kernel lacks it.
    if Path::new("/sys/fs/cgroup").is_dir()
        && let Err(error) = mount_new("cgroup2", "/sys/fs/cgroup", plain, "")
    {
        eprintln!("envd: stage1: {error}");
    }
    Ok(())
}

/// Connects standard input, output and error to the console; the kernel may have started us without.
pub fn open_console() {
    // Without a console there is no place to report that.
    let Ok(console) = File::options().read(true).write(true).open("/dev/console") else { return };
    let _ = rustix::stdio::dup2_stdin(&console);
    let _ = rustix::stdio::dup2_stdout(&console);
    let _ = rustix::stdio::dup2_stderr(&console);
}

/// Waits for the disk and mounts it.
pub fn mount_root(disk: &str) -> Result<(), Stage1Error> {
    let deadline = Instant::now() + DISK_TIMEOUT;
    while !Path::new(disk).exists() {
        if Instant::now() > deadline {
            return Err(io::Error::from(io::ErrorKind::TimedOut)).at(format!("wait for the root disk {disk}"));
        }
        sleep(POLL);
    }
    make_dir(NEW_ROOT, 0o755).at("make /newroot")?;
    mount(disk, NEW_ROOT, "ext4", MountFlags::NOATIME, None).at(format!("mount {disk} as ext4"))
}

fn in_new_root(path: &str) -> String {
    format!("{NEW_ROOT}{path}")
}

/// Mounts `/run` as a tmpfs, and copies the agent there.
pub fn mount_tmpfs_and_agent() -> Result<(), Stage1Error> {
    mount_new("tmpfs", &in_new_root("/run"), MountFlags::NOSUID | MountFlags::NODEV, "mode=755")?;
    make_dir(&in_new_root("/run/lock"), 0o1777).at("make /run/lock")?;
    rustix::fs::chmod(in_new_root("/run/lock"), Mode::from_raw_mode(0o1777)).at("open /run/lock to all")?;
    make_dir(&in_new_root("/run/wrenn"), 0o755).at("make /run/wrenn")?;
    let copy = in_new_root(AGENT_PATH);
    fs::copy("/proc/self/exe", &copy).at("copy the agent to /run/wrenn")?;
    fs::set_permissions(&copy, Permissions::from_mode(0o755)).at("make the agent executable")?;
    let tmp = in_new_root("/tmp");
    make_dir(&tmp, 0o1777).at("make /tmp")?;
    rustix::fs::chmod(&tmp, Mode::from_raw_mode(0o1777)).at("open /tmp to all")
}

/// Writes the name servers, replacing the image's.
pub fn write_resolv_conf(servers: &[Ipv4Addr]) -> Result<(), Stage1Error> {
    let path = in_new_root("/etc/resolv.conf");
    make_dir(&in_new_root("/etc"), 0o755).at("make /etc")?;
    if fs::symlink_metadata(&path).is_ok_and(|m| !m.is_file()) {
        fs::remove_file(&path).at("remove the old /etc/resolv.conf")?;
    }
    let mut text = String::new();
    for server in servers {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "nameserver {server}");
    }
    fs::write(&path, text).at("write /etc/resolv.conf")
}
