//! The part of a stream that is not kept in memory, in a file.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use longshore_sys::files::{self, Own};

/// Place for the part of a command's streams that is not kept: a file for each stream, made when it
/// is needed.
#[derive(Clone, Debug)]
pub struct Spill {
    /// The folder, for this user only; made when it is needed.
    pub dir: Arc<Path>,
    /// Name of the files, without `.out` and `.err`.
    pub name: String,
    /// The rest of standard output is wanted.
    pub stdout: bool,
    /// The rest of standard error is wanted.
    pub stderr: bool,
    /// The files are on disk, and not only written, when the command's output is told.
    pub sync: bool,
}

impl Spill {
    /// Opens the file for a stream, by its extension.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(&self, extension: &str) -> io::Result<Rest> {
        Rest::create(&self.dir, &format!("{}.{extension}", self.name), self.sync)
    }
}

/// The rest of a stream. Its file is removed with it, unless it was [kept](Rest::keep).
#[derive(Debug)]
pub struct Rest {
    path: PathBuf,
    /// While it is written.
    file: Option<File>,
    len: u64,
    sync: bool,
    kept: AtomicBool,
}

impl Rest {
    fn create(dir: &Path, name: &str, sync: bool) -> io::Result<Self> {
        let path = dir.join(name);
        let open = || files::own(&path, Own::New);
        let file = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match DirBuilder::new().mode(0o700).create(dir) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                    _ => {}
                }
                open()?
            }
            // Of a run that died before it could name it anywhere.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&path)?;
                open()?
            }
            other => other?,
        };
        Ok(Self { path, file: Some(file), len: 0, sync, kept: AtomicBool::new(false) })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// The error of the system.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            file.write_all(bytes)?;
            self.len += bytes.len() as u64;
        }
        Ok(())
    }

    /// Closes the file, and has it on disk if that was asked for.
    ///
    /// # Errors
    /// The error of the system.
    pub fn finish(&mut self) -> io::Result<()> {
        if let Some(file) = self.file.take().filter(|_| self.sync) {
            file.sync_data()?;
            let dir = self.path.parent().unwrap_or(Path::new("."));
            File::open(dir)?.sync_all()?;
        }
        Ok(())
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns its name, without the folder.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Returns the number of its bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Leaves the file where it is: something else says where to find it.
    pub fn keep(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }

    /// Has the file removed after all. What cannot be removed stays.
    pub fn discard(&self) {
        self.kept.store(false, Ordering::Relaxed);
    }
}

/// Two are equal that are in the same place.
impl PartialEq for Rest {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Eq for Rest {}

impl Drop for Rest {
    fn drop(&mut self) {
        if !self.kept.load(Ordering::Relaxed) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
