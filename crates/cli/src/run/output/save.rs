//! One pair of files a task: `--save-output DIR`.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use longshore_sys::files::output_in_directory;

/// A directory with `<seq>.out` and `<seq>.err` of each task.
#[derive(Clone, Debug)]
pub struct SaveOutput {
    dir: PathBuf,
}

impl SaveOutput {
    /// Uses this directory; creates it if need be.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn open(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Writes what a task said; files of an earlier attempt are replaced. Names are made of the number alone, so that no record can
    /// choose where they go, and no link in the directory is followed.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, seq: u64, out: &[u8], err: &[u8]) -> io::Result<()> {
        output_in_directory(&self.dir.join(format!("{seq}.out")))?.write_all(out)?;
        output_in_directory(&self.dir.join(format!("{seq}.err")))?.write_all(err)
    }
}
