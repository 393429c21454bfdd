//! The parked containers of this worker: taken, replaced, and put out when nobody wants them ([`tending`]).
//!
//! A container waits for any function with the same dependencies ([`PoolKey`]), and runs one task; where a function asks
//! for it, it then waits for the next ones of that function alone ([`Kept`](crate::kept::Kept)). It is made of the image of one of
//! them that has run here, so nothing is run that was not scanned; that one's own code lies below the mounted file,
//! out of reach without privileges that no function has.

mod tending;

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use mecapy_bus::ParkedStatus;
use mecapy_engine::{Engine, Error as EngineError, NameFiles, ReadOnlyFile, RunRequest};
use mecapy_registry::Digest;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio_util::task::TaskTracker;

use crate::background::Background;
use crate::code_layer::{CODE_PATH, Code, PoolKey};
use crate::code_place::CodePlace;
use crate::config::Options;
use crate::execution::WORKER_LABEL;
use crate::images::Held;
use crate::leaving::Leaving;
use crate::metric_definitions as metrics;
use crate::pool_folder::PoolFolder;
use crate::shelf::Shelf;
use crate::slot::{Name, Names, Slot, Used, Wanted};

/// On every parked container; the value is the slot's name.
pub(crate) const PARKED_LABEL: &str = "org.mecapy.parked";

/// How long a task waits for a container that is being started before it tries one of its own image. That would wait
/// for the same engine.
const WAIT_FOR_A_START: Duration = Duration::from_secs(10);
/// How long the end of the process waits for starts.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// A handle; cheap to clone.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Inner>);

struct Inner {
    engine: Engine,
    options: Options,
    worker: String,
    /// None: nothing is parked, yet or at all.
    folder: RwLock<Option<Arc<PoolFolder>>>,
    /// Nothing is parked any more by this process.
    is_off: AtomicBool,
    /// Nothing is parked until the worker takes tasks again.
    rests: AtomicBool,
    /// A container has seen the folder: the engine and this worker mean the same by its path.
    is_seen: AtomicBool,
    made: AtomicU64,
    names: Names,
    began: Instant,
    background: Background,
    shelves: Mutex<HashMap<PoolKey, Shelf>>,
    /// Of what waited.
    leaving: Leaving,
    starts: TaskTracker,
    /// How many containers get ready for another turn at once. What waits for that is in no task's slot.
    again: Semaphore,
    changed: Notify,
    /// As well, for who fills up.
    wanted: Notify,
}

impl Pool {
    /// Begins with nothing parked. Where another process has the folder, nothing is until that has ended.
    pub(crate) async fn new(
        engine: Engine,
        options: Options,
        worker: String,
        background: Background,
    ) -> Self {
        let slots = options.slots();
        let pool = Self(Arc::new(Inner {
            is_off: AtomicBool::new(!options.pool.enabled),
            engine,
            options,
            worker,
            folder: RwLock::new(None),
            rests: AtomicBool::new(false),
            is_seen: AtomicBool::new(false),
            made: AtomicU64::new(0),
            names: Names::default(),
            began: Instant::now(),
            background,
            shelves: Mutex::default(),
            leaving: Leaving::default(),
            starts: TaskTracker::new(),
            again: Semaphore::new(slots),
            changed: Notify::new(),
            wanted: Notify::new(),
        }));
        if !pool.is_off() {
            let options = &pool.0.options.pool;
            let claimed = PoolFolder::claim_soon(&options.directory, &pool.0.worker).await;
            if !pool.take_folder(claimed) && !pool.is_off() {
                tracing::warn!(
                    directory = %options.directory.display(),
                    worker = pool.0.worker,
                    "no containers are parked yet: another process has this worker's name (worker.name)"
                );
            }
        }
        pool
    }

    /// Whether there is one now. One that can't be used is told, and leaves the pool off.
    fn take_folder(&self, claimed: std::io::Result<Option<PoolFolder>>) -> bool {
        let claimed = claimed.unwrap_or_else(|error| {
            tracing::warn!(
                directory = %self.0.options.pool.directory.display(), %error,
                "no containers are parked: set worker.pool.directory to a folder that can be written to"
            );
            self.0.is_off.store(true, Ordering::SeqCst);
            None
        });
        let mut folder = self.0.folder.write().unwrap_or_else(PoisonError::into_inner);
        // Asked under its lock: who closes the pool says so first, and then lets go of what is here.
        *folder = claimed.filter(|_| !self.is_off()).map(Arc::new);
        folder.is_some()
    }

    fn is_off(&self) -> bool {
        self.0.is_off.load(Ordering::SeqCst)
    }

    pub(crate) fn is_on(&self) -> bool {
        !self.is_off() && !self.0.rests.load(Ordering::Relaxed) && self.folder().is_some()
    }

    /// Whether a container may be waiting for anybody at all.
    pub(crate) fn has_any(&self) -> bool {
        self.is_on() && !self.shelves().is_empty()
    }

    /// Whether containers wait, or are about to, for functions with the dependencies of this one.
    pub(crate) fn parks_for(&self, code: &Code) -> bool {
        self.is_on() && self.shelves().contains_key(&code.key)
    }

    /// The files by which containers do without the engine's network, once one has shown that the engine sees the folder.
    pub(crate) fn name_files(&self) -> Option<NameFiles> {
        let names = self.folder().filter(|_| self.is_on())?.name_files();
        // Somebody may have emptied the folder since.
        let are_here = || names.hosts.is_file() && names.resolv_conf.is_file();
        (self.0.is_seen.load(Ordering::Relaxed)
            && brings_loopback_up(&self.0.options)
            && are_here())
        .then_some(names)
    }

    /// The runner, for a container of an image that has none.
    pub(crate) fn runner(&self) -> Option<ReadOnlyFile> {
        Some(self.folder().filter(|_| !self.is_off())?.runner())
    }

    /// What waits, by dependencies.
    pub(crate) fn status(&self) -> Vec<ParkedStatus> {
        let shelves = self.shelves();
        let mut status: Vec<ParkedStatus> = shelves
            .iter()
            .map(|(key, shelf)| ParkedStatus {
                dependencies: key.short(),
                waiting: shelf.waiting(),
                starting: shelf.starting,
            })
            .collect();
        status.sort_by(|one, two| one.dependencies.cmp(&two.dependencies));
        status
    }

    /// Whether this slot is known here: it waits, or it has its turn.
    pub(crate) fn knows(&self, slot: &str) -> bool {
        self.0.names.contain(slot)
    }

    /// A container for this code: one that waits, one that is about to, or else one that is started for it, which needs
    /// nothing from a registry. None: nothing here has its dependencies.
    pub(crate) async fn take(&self, code: &Code, image: Digest) -> Option<Slot> {
        if !self.is_on() {
            return None;
        }
        let coming = {
            let (mut shelves, now) = (self.shelves(), self.now());
            let shelf = shelves.get_mut(&code.key)?;
            shelf.ask(now, &code.imports);
            if let Some(slot) = shelf.kept.take(image) {
                return Some(slot);
            }
            // Another is started when this one's task has ended, or at the next look: a start takes the machine more
            // than a short task, which would wait for it.
            if let Some(slot) = shelf.take(code.early_imports) {
                return Some(slot);
            }
            // What is being started may import.
            if !code.early_imports {
                return None;
            }
            let coming = shelf.claim(now)?;
            if shelf.owes_a_start() {
                let start = self.begin_start(code.key, shelf);
                self.0.starts.spawn(self.clone().start(start));
            }
            coming
        };
        self.look_again();
        tokio::time::timeout(WAIT_FOR_A_START, coming).await.ok()?.ok()
    }

    /// Has a container that has run a task of a function wait for that one's next.
    pub(crate) async fn keep(&self, used: Used, by: Wanted) {
        let Some(_permit) = self.0.again.try_acquire().ok().filter(|_| self.is_on()) else {
            return used.remove().await;
        };
        let slot = match used.again(&self.0.engine).await {
            Ok(slot) => slot,
            Err(error) => {
                let error = mecapy_service::chain(&error);
                tracing::warn!(image = %by.image, error, "a container could not be parked again");
                return;
            }
        };
        let now = self.now();
        if let Some(shelf) = self.shelves().get_mut(&by.key).filter(|_| self.is_on()) {
            shelf.kept.put(by.image, slot, now);
        }
        self.look_again();
    }

    /// Says that a task has ended, and that there is time to start another container.
    pub(crate) fn refill(&self) {
        self.look_again();
    }

    fn look_again(&self) {
        self.0.changed.notify_one();
        self.0.wanted.notify_one();
    }

    /// Learns that functions with these dependencies run here, and that `image` is one of them.
    pub(crate) fn learn(&self, code: &Code, image: Arc<Held>) {
        if !self.is_on() {
            return;
        }
        let now = self.now();
        let mut shelves = self.shelves();
        let shelf = shelves.entry(code.key).or_insert_with(|| Shelf::new(image));
        shelf.ask(now, &code.imports);
        drop(shelves);
        self.look_again();
    }

    /// No container is parked any more by this process.
    pub(crate) fn turn_off(&self, reason: &str) {
        if !self.0.is_off.swap(true, Ordering::SeqCst) {
            tracing::warn!(
                reason,
                directory = %self.0.options.pool.directory.display(),
                "no containers are parked any more; tasks run in containers of their own image"
            );
        }
        self.shelves().clear();
        metrics::parked(0, 0, 0, 0);
        self.look_again();
    }

    /// Removes what waits and parks nothing, or ends that: then it begins anew, with the tasks that come.
    pub(crate) fn rest(&self, rests: bool) {
        self.0.rests.store(rests, Ordering::Relaxed);
        if rests {
            self.shelves().clear();
            metrics::parked(0, 0, 0, 0);
        }
        self.look_again();
    }

    /// Removes what waits: the process ends. What is being started mostly comes to its end, so that it can be removed
    /// too; what takes long is removed as a dead worker's is. The folder goes with the last that has a place in it.
    pub(crate) async fn close(&self) {
        self.0.is_off.store(true, Ordering::SeqCst);
        self.shelves().clear();
        self.0.starts.close();
        let _ = tokio::time::timeout(CLOSE_WITHIN, self.0.starts.wait()).await;
        drop(self.0.folder.write().unwrap_or_else(PoisonError::into_inner).take());
    }

    async fn make(&self, image: &Arc<Held>, imports: &[String]) -> Result<Slot, NotMade> {
        let folder = self.folder().ok_or(NotMade::Off)?;
        let name = self.name(folder.path());
        let mark = format!("# {} of {}", name.text, folder.path().display());
        let place = CodePlace::make(&folder, &name.text, &mark)?;
        let request = RunRequest {
            image: image.id().to_owned(),
            name: name.text.clone(),
            labels: [
                (WORKER_LABEL.to_owned(), self.0.worker.clone()),
                (PARKED_LABEL.to_owned(), name.text.clone()),
            ]
            .into(),
            limits: self.0.options.limits(0),
            runtime: self.0.options.runtime.clone(),
            file: Some(ReadOnlyFile { host: place.path(), container: CODE_PATH.to_owned() }),
            names: brings_loopback_up(&self.0.options).then(|| folder.name_files()),
            ..RunRequest::default()
        };
        let parked = self.0.engine.park(request, imports).await?;
        if parked.words() != place.expected_words() {
            return Err(NotMade::NotSeen(parked.words().to_owned()));
        }
        self.0.is_seen.store(true, Ordering::Relaxed);
        let has_imports = !imports.is_empty();
        let image = Arc::clone(image);
        Ok(Slot { parked, place, image, name, has_imports, path: "started", uses: 0 })
    }

    fn name(&self, folder: &Path) -> Name {
        let number = self.0.made.fetch_add(1, Ordering::Relaxed);
        let worker = folder.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        self.0.names.take(format!("mecapy-park-{worker}-{number}"))
    }

    fn folder(&self) -> Option<Arc<PoolFolder>> {
        self.0.folder.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn now(&self) -> f64 {
        self.0.began.elapsed().as_secs_f64()
    }

    fn shelves(&self) -> MutexGuard<'_, HashMap<PoolKey, Shelf>> {
        self.0.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the OCI runtime is known to give a container without the engine's network its loopback interface.
fn brings_loopback_up(options: &Options) -> bool {
    matches!(options.runtime.as_deref(), None | Some("runc" | "crun"))
}

#[derive(Debug, thiserror::Error)]
enum NotMade {
    #[error("the pool is off")]
    Off,
    #[error("the place of its code can't be made")]
    Place(#[from] std::io::Error),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("the container does not see the file of its code as root's: it says `{0}`")]
    NotSeen(String),
}

impl NotMade {
    /// No later try can go better: what to do about it.
    fn is_for_good(&self) -> Option<&'static str> {
        match self {
            Self::NotSeen(_) => Some(
                "worker.pool.directory must be the same folder for the Docker Engine and for this worker, and the \
                 worker must be root in it",
            ),
            Self::Place(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Some("somebody removed the folder: start the worker again")
            }
            // The engine does not find the folder that is to be mounted.
            Self::Engine(EngineError::Refused { status: 400, .. }) => Some(
                "the Docker Engine does not see worker.pool.directory: mount a folder of its host into the worker, \
                 under the same path",
            ),
            _ => None,
        }
    }
}

/// What a task waits with for a container that is being started.
pub(crate) type Coming = oneshot::Receiver<Slot>;
/// And how it gets it.
pub(crate) type Claims = VecDeque<oneshot::Sender<Slot>>;
