//! A file of this host that stands for the code in one parked container. It is there before the container, and
//! gets its content when a task comes.

use std::fs::{self, File, FileTimes, OpenOptions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, FileExt as _, OpenOptionsExt as _, PermissionsExt as _,
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

/// The folder for all places of one worker, with nothing but the files that all containers see: what a dead predecessor
/// left goes.
pub(crate) fn prepare_root(directory: &Path, worker: &str) -> io::Result<PathBuf> {
    let name = mecapy_registry::Digest::of(worker.as_bytes()).hex();
    let root = directory.join(name.get(..16).unwrap_or(&name));
    match fs::remove_dir_all(&root) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::DirBuilder::new().mode(0o700).recursive(true).create(&root)?;
    let NameFiles { hosts, resolv_conf } = name_files(&root);
    for (path, content) in [(hosts, HOSTS), (resolv_conf, "")] {
        fs::write(&path, content)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o644))?;
    }
    Ok(root)
}

pub(crate) fn name_files(root: &Path) -> NameFiles {
    NameFiles { hosts: root.join("hosts"), resolv_conf: root.join("resolv.conf") }
}
