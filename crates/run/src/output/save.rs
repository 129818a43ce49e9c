//! One pair of files a task: `--save-output DIR`.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use longshore_core::lane::child::{Output, Rest};
use longshore_sys::files::output_in_directory;

/// A directory with `<seq>.out` and `<seq>.err` of each task.
#[derive(Clone, Debug)]
pub(crate) struct SaveOutput {
    dir: PathBuf,
}

impl SaveOutput {
    /// Uses this directory; creates it if need be.
    ///
    /// # Errors
    /// When it cannot be created.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Writes all that a task said; files of an earlier attempt are replaced. Names are made of the
    /// number alone, so that no record can choose where they go, and no link in the directory is
    /// followed.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(crate) fn save(&self, seq: u64, output: &Output) -> io::Result<()> {
        write(&self.dir.join(format!("{seq}.out")), &output.stdout, output.stdout_rest.as_deref())?;
        write(&self.dir.join(format!("{seq}.err")), &output.stderr, output.stderr_rest.as_deref())
    }
}

fn write(path: &Path, held: &[u8], rest: Option<&Rest>) -> io::Result<()> {
    let mut file = output_in_directory(path)?;
    file.write_all(held)?;
    if let Some(rest) = rest {
        io::copy(&mut File::open(rest.path())?, &mut file)?;
    }
    Ok(())
}
