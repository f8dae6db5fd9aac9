//! State that the parts of the agent share, and the settings from the host's `/init`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use subtle::ConstantTimeEq as _;

use crate::connect::ForwardedConnections;
use crate::environment::ImageVariables;
use crate::filesystem::watch::Watchers;
use crate::metrics::CpuClock;
use crate::process::freezer::Freezer;
use crate::process::process_cgroup::ProcessCgroups;
use crate::process::registry::Registry;
use crate::threads::AllThreads;
use crate::users::{User, UserError, Users};

/// How long requests wait for the files with the machine's names, and `/init` for a former `/init` that writes them. Only a
/// hanging disk takes longer; then the files are as they are.
pub const NAMING_TIMEOUT: Duration = Duration::from_secs(1);
/// The default user until `/init` names another.
const DEFAULT_USER: &str = "user";
/// The default user of an image without [`DEFAULT_USER`].
const FALLBACK_USER: &str = "root";

/// Whether the agent owns the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Process 1 of a guest: the agent owns the machine.
    Pid1,
    /// An ordinary process on another machine, whose clock, names and power are not changed.
    Process,
}

/// Settings sent by the host.
#[derive(Debug, Default)]
pub struct Settings {
    /// Whether `/init` has been called: before that, no user process may run.
    pub initialised: bool,
    /// The secret that every request must have; `None` or empty: no authentication.
    pub access_token: Option<String>,
    /// Environment variables of every process.
    pub env: BTreeMap<String, String>,
    /// The user if a request names none.
    pub default_user: Option<String>,
    /// The working directory if a request names none.
    pub default_workdir: Option<String>,
    /// Identifies the current boot or restore of the sandbox; chosen by the host and only returned to it.
    pub lifecycle_id: Option<String>,
}

/// The agent.
#[derive(Debug)]
pub struct Agent {
    /// Whose machine this is.
    pub mode: Mode,
    /// Settings sent by the host.
    settings: Mutex<Settings>,
    /// `/etc/passwd` and `/etc/group`.
    pub users: Users,
    /// Environment variables that the image sets for all processes.
    pub image_variables: ImageVariables,
    /// Processes started by the agent.
    pub processes: Registry,
    /// The cgroups of these processes, in a guest.
    pub process_cgroups: ProcessCgroups,
    /// Freezes all of them at once.
    pub freezer: Freezer,
    /// Watched directories.
    pub watchers: Watchers,
    /// Threads for work that may block.
    pub threads: AllThreads,
    /// CPU times at the last reading.
    pub cpu_clock: CpuClock,
    /// Connections forwarded to programs on loopback.
    pub forwarded: ForwardedConnections,
    /// Held while the files with the machine's names are written, after the response to `/init`: see
    /// [`Self::named`].
    pub naming: Arc<tokio::sync::Mutex<()>>,
    /// Notified when a request waits for these files, which are otherwise written a little later, to keep
    /// `/init` fast.
    pub naming_wanted: Arc<tokio::sync::Notify>,
}

/// Locks a mutex even if a former holder panicked: every holder leaves a consistent value.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Agent {
    /// Creates an agent without settings.
    pub fn new(mode: Mode) -> Arc<Self> {
        Arc::new(Self {
            mode,
            settings: Mutex::new(Settings::default()),
            users: Users::default(),
            image_variables: ImageVariables::default(),
            processes: Registry::default(),
            process_cgroups: ProcessCgroups::default(),
            freezer: Freezer::new(mode),
            watchers: Watchers::default(),
            threads: AllThreads::default(),
            cpu_clock: CpuClock::default(),
            forwarded: ForwardedConnections::default(),
            naming: Arc::default(),
            naming_wanted: Arc::default(),
        })
    }

    /// Returns the settings sent by the host.
    pub fn settings(&self) -> MutexGuard<'_, Settings> {
        lock(&self.settings)
    }

    /// Waits until `/etc/hostname` and similar files are as `/init` requested. Requests that read files wait
    /// for this; `/init` itself does not, because disk writes are the slowest part in a newly restored
    /// machine.
    pub async fn named(&self) {
        if self.naming.try_lock().is_err() {
            self.naming_wanted.notify_one();
            let _ = tokio::time::timeout(NAMING_TIMEOUT, self.naming.lock()).await;
        }
    }

    /// Whether user processes may run.
    pub fn is_ready(&self) -> bool {
        self.mode == Mode::Process || self.settings().initialised
    }

    /// Whether this is the secret. The comparison takes constant time for values of its length.
    pub fn accepts_token(&self, offered: Option<&[u8]>) -> bool {
        match self.settings().access_token.as_deref() {
            None | Some("") => true,
            Some(token) => offered.is_some_and(|o| token.as_bytes().ct_eq(o).into()),
        }
    }

    /// Returns the secret, if there is one.
    pub fn access_token(&self) -> Option<String> {
        self.settings().access_token.clone().filter(|t| !t.is_empty())
    }

    /// Returns the named user, or the default one.
    pub fn user(&self, name: Option<&str>) -> Result<User, UserError> {
        if let Some(name) = name.filter(|n| !n.is_empty()) {
            return self.users.find(name);
        }
        let chosen = self.settings().default_user.clone().filter(|n| !n.is_empty());
        match chosen {
            Some(name) => self.users.find(&name),
            None => self.users.find(DEFAULT_USER).or_else(|_| self.users.find(FALLBACK_USER)),
        }
    }
}
