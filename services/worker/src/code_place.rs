//! A file of this host that stands for the code in one parked container. It is there before the container, and
//! gets its content when a task comes.

use std::fs::{self, File, FileTimes, OpenOptions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, FileExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::code_layer::{CODE_MODE, Code};
use crate::pool_folder::PoolFolder;

/// Removed with its folder when this is dropped; a container that has it mounted keeps it.
#[derive(Debug)]
pub(crate) struct CodePlace {
    folder: PathBuf,
    /// Held open: nobody else can write to it.
    file: File,
    mark: String,
    /// It is nobody else's as long as there is a place in it.
    #[expect(dead_code, reason = "held, not read")]
    within: Arc<PoolFolder>,
}

impl CodePlace {
    /// `mark` is its content until there is code, by which a container proves that this is the file that it sees.
    pub(crate) fn make(within: &Arc<PoolFolder>, name: &str, mark: &str) -> io::Result<Self> {
        let folder = within.path().join(name);
        fs::DirBuilder::new().mode(0o700).create(&folder)?;
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(CODE_MODE)
            .open(folder.join("user_function.py"));
        let place = match file {
            Ok(file) => Self { folder, file, mark: mark.to_owned(), within: Arc::clone(within) },
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
