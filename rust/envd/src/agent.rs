//! What the parts of the agent share, and what the host told it at `/init`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use subtle::ConstantTimeEq as _;

use crate::connect::Joined;
use crate::environment::ImageVariables;
use crate::filesystem::watch::Watchers;
use crate::metrics::CpuClock;
use crate::process::enclosure::Enclosures;
use crate::process::freezer::Freezer;
use crate::process::registry::Registry;
use crate::users::{User, UserError, Users};

/// The user who is meant when nobody is named and `/init` said nothing.
const USUAL_USER: &str = "user";
/// The user of an image that has no [`USUAL_USER`].
const LAST_USER: &str = "root";

/// Whose machine this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Process 1 of a guest: the machine is ours.
    Pid1,
    /// An ordinary process: the machine is somebody else's, so clock, names and power are left alone.
    Process,
}

/// What the host told the guest.
#[derive(Debug, Default)]
pub struct Settings {
    /// Whether `/init` has been called: before, no program of a user may run.
    pub initialised: bool,
    /// The secret that every request carries; `None` or empty: open.
    pub access_token: Option<String>,
    /// Variables of every process.
    pub env: BTreeMap<String, String>,
    /// The user when none is named.
    pub default_user: Option<String>,
    /// The working directory when none is named.
    pub default_workdir: Option<String>,
    /// Which life of the sandbox this is, as the host counts; only given back.
    pub lifecycle_id: Option<String>,
}

/// The agent.
#[derive(Debug)]
pub struct Agent {
    /// Whose machine this is.
    pub mode: Mode,
    /// What the host told.
    settings: Mutex<Settings>,
    /// `/etc/passwd` and `/etc/group`.
    pub users: Users,
    /// Variables that the image sets for all processes.
    pub image_variables: ImageVariables,
    /// Processes that were started here.
    pub processes: Registry,
    /// A cgroup for each of them, in a guest.
    pub enclosures: Enclosures,
    /// Stops all of them at once.
    pub freezer: Freezer,
    /// Watched directories.
    pub watchers: Watchers,
    /// Processor times of the last look.
    pub cpu_clock: CpuClock,
    /// Connections that are joined with programs.
    pub joined: Joined,
    /// Held while the files that name this machine are written, after `/init` was answered: see [`Self::named`].
    pub naming: Arc<tokio::sync::Mutex<()>>,
    /// Told when somebody waits for that: the files are written a little later otherwise, off the way of `/init`.
    pub naming_wanted: Arc<tokio::sync::Notify>,
}

/// Takes a lock whether or not another holder panicked: every holder leaves a whole value.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Agent {
    /// An agent that knows nothing yet.
    pub fn new(mode: Mode) -> Arc<Self> {
        Arc::new(Self {
            mode,
            settings: Mutex::new(Settings::default()),
            users: Users::default(),
            image_variables: ImageVariables::default(),
            processes: Registry::default(),
            enclosures: Enclosures::default(),
            freezer: Freezer::new(mode),
            watchers: Watchers::default(),
            cpu_clock: CpuClock::default(),
            joined: Joined::default(),
            naming: Arc::default(),
            naming_wanted: Arc::default(),
        })
    }

    /// What the host told.
    pub fn settings(&self) -> MutexGuard<'_, Settings> {
        lock(&self.settings)
    }

    /// Returns once `/etc/hostname` and its like are what `/init` said. Whoever looks at files waits for it; `/init`
    /// itself does not, because a write to the disk is most of its time in a machine that was just restored.
    pub async fn named(&self) {
        if self.naming.try_lock().is_err() {
            self.naming_wanted.notify_one();
            drop(self.naming.lock().await);
        }
    }

    /// Whether user programs may run.
    pub fn is_ready(&self) -> bool {
        self.mode == Mode::Process || self.settings().initialised
    }

    /// Whether this is the secret. Takes the same time for every wrong one of its length.
    pub fn accepts_token(&self, offered: Option<&[u8]>) -> bool {
        match self.settings().access_token.as_deref() {
            None | Some("") => true,
            Some(token) => offered.is_some_and(|o| token.as_bytes().ct_eq(o).into()),
        }
    }

    /// The secret, when there is one.
    pub fn access_token(&self) -> Option<String> {
        self.settings().access_token.clone().filter(|t| !t.is_empty())
    }

    /// The named user, or the default one.
    pub fn user(&self, name: Option<&str>) -> Result<User, UserError> {
        if let Some(name) = name.filter(|n| !n.is_empty()) {
            return self.users.find(name);
        }
        let chosen = self.settings().default_user.clone().filter(|n| !n.is_empty());
        match chosen {
            Some(name) => self.users.find(&name),
            None => self.users.find(USUAL_USER).or_else(|_| self.users.find(LAST_USER)),
        }
    }
}
