//! A file of this host that stands for the code in one parked container. It is there before the container, and
//! gets its content when a task comes.

use std::fs::{self, File, FileTimes, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use mecapy_engine::NameFiles;

use crate::code_layer::{CODE_MODE, Code};

/// Removed with its folder when this is dropped; a container that has it mounted keeps it.
#[derive(Debug)]
pub(crate) struct CodePlace {
    folder: PathBuf,
    /// Held open: nobody else can write to it.
    file: File,
    mark: String,
}

impl CodePlace {
    /// `mark` is its content until there is code, by which a container proves that this is the file that it sees.
    pub(crate) fn make(root: &Path, name: &str, mark: &str) -> io::Result<Self> {
        let folder = root.join(name);
        fs::DirBuilder::new().mode(0o700).create(&folder)?;
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(CODE_MODE)
            .open(folder.join("user_function.py"));
        let place = match file {
            Ok(file) => Self { folder, file, mark: mark.to_owned() },
            Err(error) => {
                let _ = fs::remove_dir(&folder);
                return Err(error);
            }
        };
        // Without what the process's mask took away.
        place.file.set_permissions(fs::Permissions::from_mode(CODE_MODE))?;
        place.file.write_all_at(mark.as_bytes(), 0)?;
        Ok(place)
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.join("user_function.py")
    }

    /// What a container says that sees it, as root's and with the right mode.
    pub(crate) fn expected_words(&self) -> String {
        format!("0:0 {CODE_MODE:o} {}", self.mark)
    }

    pub(crate) fn fill(&self, code: &Code) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.write_all_at(&code.bytes, 0)?;
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(code.mtime);
        self.file.set_times(FileTimes::new().set_modified(time).set_accessed(time))
    }
}

impl Drop for CodePlace {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// As the engine writes it for a container without a network.
const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";

/// The folder for all places of one worker, as long as that lives.
#[derive(Debug)]
pub(crate) struct Root {
    pub path: PathBuf,
    /// Locked, by which others see that it is in use. The kernel lets go of it when the process ends, however it does.
    #[expect(dead_code, reason = "held, not read")]
    lock: File,
}

/// Beside each worker's folder, as its name's ending.
const LOCK: &str = ".lock";
/// Of a worker's folder's name, in hexadecimal digits.
const NAME_LENGTH: usize = 16;
/// Another that starts may have it for a moment, while it removes what was left under this name.
const LOCK_TRIES: u32 = 100;
const LOCK_AGAIN_AFTER: Duration = Duration::from_millis(10);

impl Root {
    /// With nothing in it but the files that all containers see: what a dead predecessor left goes, and what other dead
    /// workers left on this machine.
    pub(crate) async fn prepare(directory: &Path, worker: &str) -> io::Result<Self> {
        let name = mecapy_registry::Digest::of(worker.as_bytes()).hex();
        let name = name.get(..NAME_LENGTH).unwrap_or(&name);
        let path = directory.join(name);
        let new_folder =
            |path: &Path| fs::DirBuilder::new().mode(0o700).recursive(true).create(path);
        new_folder(directory)?;
        let lock = take_lock(&directory.join(format!("{name}{LOCK}"))).await?;
        remove_if_there(&path)?;
        new_folder(&path)?;
        let NameFiles { hosts, resolv_conf } = name_files(&path);
        for (path, content) in [(hosts, HOSTS), (resolv_conf, "")] {
            fs::write(&path, content)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o644))?;
        }
        if let Err(error) = remove_of_the_dead(directory, name) {
            tracing::warn!(directory = %directory.display(), %error, "what dead workers left is still there");
        }
        Ok(Self { path, lock })
    }
}

/// Where somebody of the same name holds it for longer, it stays theirs: so the folder counts as in use all the same.
async fn take_lock(path: &Path) -> io::Result<File> {
    let open =
        || OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    let mut file = open()?;
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Ok(()) if is_at(&file, path) => break,
            // It was removed between the two.
            Ok(()) => file = open()?,
            Err(TryLockError::WouldBlock) => tokio::time::sleep(LOCK_AGAIN_AFTER).await,
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(file)
}

fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(there)) = (file.metadata(), fs::metadata(path)) else { return false };
    (open.dev(), open.ino()) == (there.dev(), there.ino())
}

/// Folders whose lock nobody holds. One without a lock is left: it is of a version that knew none.
fn remove_of_the_dead(directory: &Path, own: &str) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let lock = entry?.path();
        let name = lock.file_name().and_then(|name| name.to_str());
        let Some(name) = name.and_then(|name| name.strip_suffix(LOCK)) else { continue };
        // Other programs may have locks of their own beside ours.
        let is_ours =
            name.len() == NAME_LENGTH && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        if name == own || !is_ours {
            continue;
        }
        let file = match File::open(&lock) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if file.try_lock().is_ok() && is_at(&file, &lock) {
            remove_if_there(&directory.join(name))?;
            fs::remove_file(&lock)?;
        }
    }
    Ok(())
}

fn remove_if_there(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub(crate) fn name_files(root: &Path) -> NameFiles {
    NameFiles { hosts: root.join("hosts"), resolv_conf: root.join("resolv.conf") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_worker_that_starts_removes_what_dead_ones_left_and_nobody_elses() {
        let directory = std::env::temp_dir().join(mecapy_testkit::unique("mecapy-worker-places"));
        let prepare = async |worker: &str| Root::prepare(&directory, worker).await.unwrap();
        let (dead, alive) = (prepare("dead").await, prepare("alive").await);
        let places = [&dead, &alive].map(|root| CodePlace::make(&root.path, "1", "mark").unwrap());
        let unknown = directory.join("0123456789abcdef");
        let foreign = directory.join("foreign");
        for folder in [&unknown, &foreign] {
            fs::create_dir(folder).unwrap();
        }
        for lock in ["foreign.lock", ".lock"] {
            fs::write(directory.join(lock), "").unwrap();
        }
        let dead_path = dead.path.clone();
        drop(dead);
        assert!(dead_path.is_dir(), "as when it is killed");

        let new = prepare("new").await;
        assert!(!dead_path.exists() && !dead_path.with_extension("lock").exists());
        assert!(places[1].path().is_file() && name_files(&alive.path).hosts.is_file());
        assert!(foreign.is_dir(), "its lock is another program's");
        assert!(unknown.is_dir(), "it may be of a version without locks");
        // Its own of before goes, whatever else is there.
        fs::write(new.path.join("left"), "").unwrap();
        drop(new);
        let new = prepare("new").await;
        assert!(name_files(&new.path).resolv_conf.is_file() && !new.path.join("left").exists());
        assert!(places[1].path().is_file());
        // And once more when it is back.
        assert!(prepare("dead").await.path == dead_path && dead_path.is_dir());
        fs::remove_dir_all(&directory).unwrap();
    }
}
