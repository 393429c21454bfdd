//! The folder of one worker for the files that its parked containers see, and the lock by which it is that one's alone.
//!
//! The lock is a file beside the folder. Who holds it alone makes, changes and removes the two, and removes the lock last.
//! So who gets a lock looks whether its file is still the one at its path: if not, it was removed in between, and counts
//! for nothing.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mecapy_engine::{NameFiles, RUNNER, ReadOnlyFile};
use mecapy_registry::Digest;

/// As the engine writes it for a container without a network.
const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";

/// As base images have it, for function images that have none.
const OUR_RUNNER: &str = include_str!("../../../docker/base/python-slim/runner.py");

/// Beside each worker's folder, as its name's ending.
const LOCK: &str = ".lock";
/// Of a worker's folder's name, in hexadecimal digits.
const NAME_LENGTH: usize = 16;
/// Another that starts may have the lock for a moment, while it removes what was left under this name.
const TRIES: u32 = 100;
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(10);

/// Removed, and free for the next worker of this name, when this is dropped. Where the process dies, its lock goes with
/// it, and the next worker that starts removes the rest.
#[derive(Debug)]
pub(crate) struct PoolFolder {
    path: PathBuf,
    lock: PathBuf,
    /// The kernel lets go of it when the process ends, however it does.
    #[expect(dead_code, reason = "held, not read")]
    locked: File,
}

impl PoolFolder {
    /// With nothing in it but the files that all containers see: what a dead predecessor left goes, and what other dead
    /// workers left on this machine. None: another process has this worker's name, and the folder with it.
    pub(crate) fn claim(directory: &Path, worker: &str) -> io::Result<Option<Self>> {
        let name = Digest::of(worker.as_bytes()).hex();
        let name = name.get(..NAME_LENGTH).unwrap_or(&name);
        let new_folder =
            |path: &Path| fs::DirBuilder::new().mode(0o700).recursive(true).create(path);
        new_folder(directory)?;
        let lock = directory.join(format!("{name}{LOCK}"));
        let Some(locked) = take_lock(&lock)? else { return Ok(None) };
        // From here on, an error removes what there is.
        let folder = Self { path: directory.join(name), lock, locked };
        remove_if_there(&folder.path)?;
        new_folder(&folder.path)?;
        let NameFiles { hosts, resolv_conf } = folder.name_files();
        let runner = folder.runner().host;
        for (path, content) in [(hosts, HOSTS), (resolv_conf, ""), (runner, OUR_RUNNER)] {
            fs::write(&path, content)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o644))?;
        }
        remove_of_the_dead(directory, name);
        Ok(Some(folder))
    }

    /// As [`Self::claim`], where another process may have it for a moment.
    pub(crate) async fn claim_soon(directory: &Path, worker: &str) -> io::Result<Option<Self>> {
        for _ in 0..TRIES {
            if let Some(folder) = Self::claim(directory, worker)? {
                return Ok(Some(folder));
            }
            tokio::time::sleep(TRY_AGAIN_AFTER).await;
        }
        Ok(None)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn name_files(&self) -> NameFiles {
        NameFiles { hosts: self.path.join("hosts"), resolv_conf: self.path.join("resolv.conf") }
    }

    /// The runner, in the place where images have it.
    pub(crate) fn runner(&self) -> ReadOnlyFile {
        ReadOnlyFile { host: self.path.join("runner.py"), container: RUNNER[3].to_owned() }
    }
}

impl Drop for PoolFolder {
    fn drop(&mut self) {
        let removed = remove_if_there(&self.path).and_then(|()| fs::remove_file(&self.lock));
        if let Err(error) = removed {
            tracing::warn!(folder = %self.path.display(), %error, "a folder of containers that waited is still there");
        }
    }
}

/// None: somebody else has it, or had it until now and removed it.
fn take_lock(path: &Path) -> io::Result<Option<File>> {
    let file =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    Ok(lock(&file, path)?.then_some(file))
}

fn lock(file: &File, path: &Path) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(is_at(file, path)),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(there)) = (file.metadata(), fs::metadata(path)) else { return false };
    (open.dev(), open.ino()) == (there.dev(), there.ino())
}

/// Folders whose lock nobody holds. One without a lock is left: it is of a version that knew none. What can't be removed
/// is told, and keeps none of the others.
fn remove_of_the_dead(directory: &Path, own: &str) {
    let told = |path: &Path, error: io::Error| {
        tracing::warn!(path = %path.display(), %error, "what a dead worker left is still there");
    };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => return told(directory, error),
    };
    for entry in entries {
        match entry {
            Ok(entry) => {
                let lock = entry.path();
                remove_if_dead(directory, &lock, own).unwrap_or_else(|error| told(&lock, error));
            }
            Err(error) => told(directory, error),
        }
    }
}

fn remove_if_dead(directory: &Path, lock_path: &Path, own: &str) -> io::Result<()> {
    let name = lock_path.file_name().and_then(|name| name.to_str());
    let Some(name) = name.and_then(|name| name.strip_suffix(LOCK)) else { return Ok(()) };
    // Other programs may have locks of their own beside ours.
    let is_ours = name.len() == NAME_LENGTH && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    if name == own || !is_ours {
        return Ok(());
    }
    let file = match File::open(lock_path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if lock(&file, lock_path)? {
        remove_if_there(&directory.join(name))?;
        fs::remove_file(lock_path)?;
    }
    Ok(())
}

fn remove_if_there(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;
    use crate::code_place::CodePlace;

    fn directory() -> PathBuf {
        std::env::temp_dir().join(mecapy_testkit::unique("mecapy-worker-places"))
    }

    fn claim(directory: &Path, worker: &str) -> Arc<PoolFolder> {
        Arc::new(PoolFolder::claim(directory, worker).unwrap().unwrap())
    }

    /// What a worker leaves that is killed: its lock is held by nobody.
    fn left_by_a_dead_one(directory: &Path, worker: &str) -> PathBuf {
        let name = Digest::of(worker.as_bytes()).hex();
        let path = directory.join(&name[..NAME_LENGTH]);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("left"), "").unwrap();
        fs::write(path.with_extension("lock"), "").unwrap();
        path
    }

    #[test]
    fn a_worker_that_starts_removes_what_dead_ones_left_and_nobody_elses() {
        let directory = directory();
        let alive = claim(&directory, "alive");
        let place = CodePlace::make(&alive, "1", "mark").unwrap();
        let unknown = directory.join("0123456789abcdef");
        let foreign = directory.join("foreign");
        for folder in [&unknown, &foreign] {
            fs::create_dir(folder).unwrap();
        }
        for lock in ["foreign.lock", ".lock"] {
            fs::write(directory.join(lock), "").unwrap();
        }
        let dead: Vec<PathBuf> = (0..8)
            .map(|number| left_by_a_dead_one(&directory, &format!("dead-{number}")))
            .collect();
        // A lock that can't be removed keeps nobody from the others. Whichever is looked at first.
        for number in 0..8 {
            fs::create_dir(directory.join(format!("{number:016x}.lock"))).unwrap();
        }

        let new = claim(&directory, "new");
        for dead in &dead {
            assert!(!dead.exists() && !dead.with_extension("lock").exists(), "{dead:?}");
        }
        assert!(place.path().is_file() && alive.name_files().hosts.is_file());
        assert!(foreign.is_dir(), "its lock is another program's");
        assert!(unknown.is_dir(), "it may be of a version without locks");
        drop(new);
        // Its own of before goes, whatever else is there.
        let left = left_by_a_dead_one(&directory, "new");
        let new = claim(&directory, "new");
        assert_eq!(new.path(), left);
        assert!(new.name_files().resolv_conf.is_file() && !left.join("left").exists());
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_folder_is_one_workers_until_nothing_of_that_one_is_in_it_and_goes_then() {
        let directory = directory();
        let first = claim(&directory, "worker");
        let (path, lock) = (first.path.clone(), first.lock.clone());
        let place = CodePlace::make(&first, "1", "mark").unwrap();
        let is_free = || PoolFolder::claim(&directory, "worker").unwrap().is_some();
        assert!(!is_free(), "it has it");
        drop(first);
        assert!(!is_free(), "a container may see a file in it");
        assert!(place.path().is_file());
        drop(place);
        assert!(!path.exists() && !lock.exists(), "it leaves nothing");
        assert!(is_free());
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_lock_on_a_file_that_was_removed_is_none() {
        let directory = directory();
        let first = claim(&directory, "worker");
        let path = first.lock.clone();
        let waiting = File::open(&path).unwrap();
        assert!(!lock(&waiting, &path).unwrap());
        drop(first);
        assert!(!lock(&waiting, &path).unwrap(), "nothing is there");
        let next = claim(&directory, "worker");
        assert!(!lock(&waiting, &path).unwrap(), "another is there");
        drop(next);
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn however_many_come_and_go_at_once_one_has_it_at_a_time() {
        const TURNS: usize = 200;
        let directory = directory();
        let (is_taken, turns) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while turns.load(Ordering::SeqCst) < TURNS {
                        let Some(folder) = PoolFolder::claim(&directory, "worker").unwrap() else {
                            std::thread::yield_now();
                            continue;
                        };
                        assert!(!is_taken.swap(true, Ordering::SeqCst), "two have it");
                        assert!(folder.name_files().hosts.is_file());
                        turns.fetch_add(1, Ordering::SeqCst);
                        is_taken.store(false, Ordering::SeqCst);
                    }
                });
            }
        });
        fs::remove_dir_all(&directory).unwrap();
    }
}
