//! Starts a child by `clone(CLONE_VM | CLONE_VFORK)`: no page table is copied, which is the greatest cost of
//! a fork, above all under an emulated CPU. The parent's thread sleeps until the child has called `execve` or
//! failed, and the child reports the reason of a failure through shared memory.

use std::ffi::{CStr, CString, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;
use std::sync::atomic::AtomicU32;

/// Stack of the child between `clone` and `execve`. Its deepest call is a raw system call.
const CHILD_STACK_BYTES: usize = 64 * 1024;
/// Signals that this program catches or ignores; a child must start with their default action.
const SIGNALS_TO_RESET: [c_int; 6] =
    [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGPIPE, libc::SIGUSR1];

/// The ids a child runs with.
#[derive(Clone, Debug)]
pub struct Ids {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// Everything about a child, prepared so that the child itself needs no allocation.
#[derive(Debug)]
pub struct Command<'a> {
    /// Paths to try in this order, as from a search along `PATH`.
    pub programs: &'a [CString],
    /// Arguments, the program's name first.
    pub args: &'a [CString],
    /// Environment as `NAME=value`.
    pub env: &'a [CString],
    /// Working directories to try in this order. The last one is expected to exist.
    pub dirs: &'a [CString],
    /// Standard input, output and error. None may be 0, 1 or 2 unless it is in its own place.
    pub stdio: [BorrowedFd<'a>; 3],
    /// Whether standard input becomes the controlling terminal.
    pub terminal: bool,
    /// `None`: the ids of this program.
    pub ids: Option<&'a Ids>,
    /// Written to `oom_score_adj`: the OOM killer prefers the child to this program.
    pub oom_score_adj: Option<&'a CStr>,
    /// Soft and hard limit of open files.
    pub open_files: Option<(u64, u64)>,
    /// The directory of a cgroup v2 in which the child is started, so that none of its descendants can leave
    /// it.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// The step at which a child failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Creating the child.
    Clone,
    /// Session, terminal, descriptors, limits.
    Setup,
    /// User and groups.
    Ids,
    /// Working directory.
    Directory,
    /// The program itself.
    Execute,
}

/// Why the child could not be started.
#[derive(Debug)]
pub struct SpawnError {
    /// The step.
    pub step: Step,
    /// The cause.
    pub source: io::Error,
}

impl std::fmt::Display for SpawnError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot start a process at step {:?}: {}", self.step, self.source)
    }
}

impl std::error::Error for SpawnError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// The input of the child, and its failure.
struct Shared<'a, 'b> {
    /// The command.
    command: &'b Command<'a>,
    /// `args` in the form for `execve`.
    argv: &'b [*const libc::c_char],
    /// `env` in the form for `execve`.
    envp: &'b [*const libc::c_char],
    /// Set by the child; `None` if it reached `execve`.
    failure: Option<(Step, c_int)>,
}

/// Starts a child in its own session and returns its pid. Waits as long as the child's working directory or program makes it wait.
///
/// `born` gets the pid before the child runs, so that another thread can reap or kill it meanwhile. A child that fails before
/// `execve` is a zombie, which is to be reaped like the others.
pub fn spawn(command: &Command<'_>, born: &AtomicU32) -> Result<u32, SpawnError> {
    let mut argv: Vec<_> = command.args.iter().map(|a| a.as_ptr()).collect();
    argv.push(ptr::null());
    let mut envp: Vec<_> = command.env.iter().map(|e| e.as_ptr()).collect();
    envp.push(ptr::null());
    let mut shared = Shared { command, argv: &argv, envp: &envp, failure: None };
    let mut stack = vec![0_u128; CHILD_STACK_BYTES / 16];

    let pid = {
        let _blocked = BlockedSignals::all();
        // SAFETY: `stack` and `shared` outlive the call, because CLONE_VFORK suspends this thread until the child
        // has left this address space by `execve` or `_exit`. The child calls only raw system calls.
        unsafe { clone_child(&mut stack, &mut shared, born) }
    };
    let pid = pid.map_err(|source| SpawnError { step: Step::Clone, source })?;
    match shared.failure {
        None => Ok(pid),
        Some((step, errno)) => Err(SpawnError { step, source: io::Error::from_raw_os_error(errno) }),
    }
}

/// Creates the child, in its cgroup if one is given.
///
/// # Safety
/// `stack` must not be touched, and `shared` must stay valid, until the child has left this address space.
unsafe fn clone_child(stack: &mut [u128], shared: &mut Shared<'_, '_>, born: &AtomicU32) -> io::Result<u32> {
    let cgroup = shared.command.cgroup.map(|fd| fd.as_raw_fd());
    let argument = ptr::from_mut(shared).cast::<c_void>();
    if let Some(cgroup) = cgroup {
        // SAFETY: the caller's guarantee is passed on.
        return unsafe { clone_into_cgroup(stack, argument, cgroup, born) };
    }
    // SAFETY: `child` takes what `argument` points to.
    unsafe { plain_clone(stack, argument, born) }
}

/// # Safety
/// As for [`clone_child`].
unsafe fn plain_clone(stack: &mut [u128], argument: *mut c_void, born: &AtomicU32) -> io::Result<u32> {
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PARENT_SETTID | libc::SIGCHLD;
    let top = stack.as_mut_ptr_range().end.cast::<c_void>();
    // SAFETY: `top` is the end of a live, 16-byte aligned stack; the kernel writes a pid to `born`, which is live.
    let pid = unsafe { libc::clone(child, top, flags, argument, born.as_ptr()) };
    if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(pid as u32) }
}

/// What `clone3` reads; the kernel's `struct clone_args`.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    /// `CLONE_*`.
    flags: u64,
    /// Not used here.
    pidfd: u64,
    /// Not used here.
    child_tid: u64,
    /// Where the pid of the child is written before it runs.
    parent_tid: u64,
    /// The signal that reports the child's end.
    exit_signal: u64,
    /// Lowest address of the child's stack.
    stack: u64,
    /// Its size.
    stack_size: u64,
    /// Not used here.
    tls: u64,
    /// Not used here.
    set_tid: u64,
    /// Not used here.
    set_tid_size: u64,
    /// The descriptor of the cgroup's directory.
    cgroup: u64,
}

/// libc has no call that takes a cgroup, so the child's first steps are written in assembly.
///
/// # Safety
/// As for [`clone_child`].
#[cfg(target_arch = "x86_64")]
unsafe fn clone_into_cgroup(
    stack: &mut [u128],
    argument: *mut c_void,
    cgroup: RawFd,
    born: &AtomicU32,
) -> io::Result<u32> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let order = CloneArgs {
        flags: (libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PARENT_SETTID) as u64 | CLONE_INTO_CGROUP,
        parent_tid: born.as_ptr() as u64,
        exit_signal: libc::SIGCHLD as u64,
        stack: stack.as_mut_ptr() as u64,
        stack_size: size_of_val(stack) as u64,
        cgroup: cgroup as u64,
        ..CloneArgs::default()
    };
    let result: i64;
    // SAFETY: `order` is live; the child continues at the same place with the end of `stack` as its stack, where it calls
    // `child`, which does not return. The parent's registers are its own; `syscall` itself changes rcx and r11.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") &raw const order,
            in("rsi") size_of::<CloneArgs>(),
            in("r12") argument,
            in("r13") child as extern "C" fn(*mut c_void) -> c_int,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    if result < 0 { Err(io::Error::from_raw_os_error(-result as i32)) } else { Ok(result as u32) }
}

/// On other architectures no cgroup is used: the child's descendants are then found by their session.
///
/// # Safety
/// As for [`clone_child`].
#[cfg(not(target_arch = "x86_64"))]
unsafe fn clone_into_cgroup(
    stack: &mut [u128],
    argument: *mut c_void,
    _cgroup: RawFd,
    born: &AtomicU32,
) -> io::Result<u32> {
    // SAFETY: the caller's guarantee is passed on.
    unsafe { plain_clone(stack, argument, born) }
}

/// Runs in the child, on the small stack, in the parent's memory.
extern "C" fn child(argument: *mut c_void) -> c_int {
    // SAFETY: `argument` is the `Shared` of the suspended parent thread; nobody else touches it now.
    let shared = unsafe { &mut *argument.cast::<Shared<'_, '_>>() };
    if let Err(failure) = prepare(shared.command) {
        shared.failure = Some(failure);
    } else {
        shared.failure = Some(execute(shared));
    }
    // SAFETY: ends the child without running anything that belongs to the parent.
    unsafe { libc::_exit(127) }
}

type Failure = (Step, c_int);

/// Converts the result of a raw call that must succeed.
fn must(step: Step, result: libc::c_long) -> Result<libc::c_long, Failure> {
    if result == -1 {
        // SAFETY: the thread's own errno; the parent's thread shares it and sleeps.
        Err((step, unsafe { *libc::__errno_location() }))
    } else {
        Ok(result)
    }
}

fn prepare(command: &Command<'_>) -> Result<(), Failure> {
    if let Some(text) = command.oom_score_adj {
        write_file(c"/proc/self/oom_score_adj", text.to_bytes());
    }
    let stdio = command.stdio.map(|fd| fd.as_raw_fd());
    // SAFETY: raw calls on descriptors that the parent holds open; no memory but constants is passed.
    unsafe {
        must(Step::Setup, libc::syscall(libc::SYS_setsid))?;
        for (place, fd) in stdio.into_iter().enumerate() {
            must(Step::Setup, redirect(fd, place as RawFd))?;
        }
        if command.terminal {
            must(Step::Setup, libc::syscall(libc::SYS_ioctl, 0, libc::TIOCSCTTY, 0))?;
        }
    }
    if let Some((soft, hard)) = command.open_files {
        let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
        // SAFETY: `limit` is live for the call. Failure leaves the inherited limit, which is good enough.
        unsafe {
            libc::syscall(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, &raw const limit, ptr::null::<libc::rlimit64>())
        };
    }
    if let Some(ids) = command.ids {
        // SAFETY: `groups` is live for the call. Raw calls, because libc's versions would tell all threads of the parent.
        unsafe {
            must(Step::Ids, libc::syscall(libc::SYS_setgroups, ids.groups.len(), ids.groups.as_ptr()))?;
            must(Step::Ids, libc::syscall(libc::SYS_setresgid, ids.gid, ids.gid, ids.gid))?;
            must(Step::Ids, libc::syscall(libc::SYS_setresuid, ids.uid, ids.uid, ids.uid))?;
        }
    }
    change_directory(command.dirs)
}

/// `dup2` that also clears close-on-exec when the descriptor is in its place already.
///
/// # Safety
/// `fd` must be open.
unsafe fn redirect(fd: RawFd, place: RawFd) -> libc::c_long {
    // SAFETY: plain descriptor calls.
    unsafe {
        if fd == place {
            libc::syscall(libc::SYS_fcntl, fd, libc::F_SETFD, 0)
        } else {
            libc::syscall(libc::SYS_dup3, fd, place, 0)
        }
    }
}

fn change_directory(dirs: &[CString]) -> Result<(), Failure> {
    let mut result = Ok(());
    for dir in dirs {
        // SAFETY: `dir` is a live C string.
        result = must(Step::Directory, unsafe { libc::syscall(libc::SYS_chdir, dir.as_ptr()) }).map(drop);
        if result.is_ok() {
            break;
        }
    }
    result
}

/// Tries the programs in turn, as `execvp` does. Returns only if none could be started.
fn execute(shared: &Shared<'_, '_>) -> Failure {
    let mut answer = libc::ENOENT;
    reset_signals();
    for program in shared.command.programs {
        // SAFETY: all strings are live, both arrays end in null.
        unsafe { libc::syscall(libc::SYS_execve, program.as_ptr(), shared.argv.as_ptr(), shared.envp.as_ptr()) };
        // SAFETY: as in `must`.
        match unsafe { *libc::__errno_location() } {
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => answer = libc::EACCES,
            other => return (Step::Execute, other),
        }
    }
    (Step::Execute, answer)
}

/// Default actions first, then nothing blocked: no handler of the parent may run in the child.
fn reset_signals() {
    // SAFETY: the zeroed structures are valid; `CLONE_SIGHAND` was not given, so the parent's actions stay.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = libc::SIG_DFL;
        for signal in SIGNALS_TO_RESET {
            libc::sigaction(signal, &raw const action, ptr::null_mut());
        }
        let none: libc::sigset_t = std::mem::zeroed();
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
}

/// Writes; `execve` closes the file. Errors are ignored: the setting is optional.
fn write_file(path: &CStr, text: &[u8]) {
    // SAFETY: live C string and live bytes.
    unsafe {
        let fd = libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd >= 0 {
            libc::syscall(libc::SYS_write, fd, text.as_ptr(), text.len());
        }
    }
}

/// Blocks all signals while it exists, so that no handler runs on the child's small stack.
struct BlockedSignals {
    /// The mask to restore.
    before: libc::sigset_t,
}

impl BlockedSignals {
    fn all() -> Self {
        // SAFETY: both sets are live for the calls; zeroed sets are valid.
        unsafe {
            let mut before: libc::sigset_t = std::mem::zeroed();
            let mut every: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut every);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const every, &raw mut before);
            Self { before }
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: `before` came from the same call.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, ptr::null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::wait;

    fn run(program: &CStr, args: &[&CStr], dirs: &[&CStr]) -> Result<u32, SpawnError> {
        let born = AtomicU32::new(0);
        let result = run_noting(program, args, dirs, &born);
        if let Ok(pid) = result {
            assert_eq!(born.load(Ordering::Relaxed), pid);
        }
        result
    }

    fn run_noting(program: &CStr, args: &[&CStr], dirs: &[&CStr], born: &AtomicU32) -> Result<u32, SpawnError> {
        let null = std::fs::File::options().read(true).write(true).open("/dev/null").expect("null device");
        let own = |list: &[&CStr]| list.iter().map(|s| CString::from(*s)).collect::<Vec<_>>();
        spawn(
            &Command {
                programs: &own(&[program]),
                args: &own(args),
                env: &[],
                dirs: &own(dirs),
                stdio: [null.as_fd(); 3],
                terminal: false,
                ids: None,
                oom_score_adj: None,
                open_files: None,
                cgroup: None,
            },
            born,
        )
    }

    #[test]
    fn a_child_runs_and_its_exit_code_is_found() {
        let pid = run(c"/bin/sh", &[c"sh", c"-c", c"exit 7"], &[c"/"]).expect("a shell");
        assert_eq!(wait::wait_for(pid).expect("our child"), wait::Ended::Exited(7));
    }

    #[test]
    fn a_missing_program_is_told_by_step_and_errno() {
        let error = run(c"/no/such", &[c"x"], &[c"/"]).expect_err("missing");
        assert_eq!((error.step, error.source.raw_os_error()), (Step::Execute, Some(libc::ENOENT)));
    }

    #[test]
    fn a_missing_directory_is_told_and_a_later_one_is_taken() {
        let error = run(c"/bin/true", &[c"x"], &[c"/no/such"]).expect_err("missing");
        assert_eq!(error.step, Step::Directory);
        run(c"/bin/true", &[c"x"], &[c"/no/such", c"/"]).expect("second directory");
    }
}
