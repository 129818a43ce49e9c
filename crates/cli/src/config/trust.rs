//! Trust in the `longshore.toml` of a folder: whose file it may be, which of its keys wait for the
//! user's word, and where that word is kept.
//!
//! A folder may come from anywhere: an archive, a clone, a share. Its file may say how many run at
//! once, and how often they are tried; what runs, where it reaches and which variables it reads is
//! for the user to let in, once for each content of the file. A file that the user names needs no
//! word, and neither does the user's own.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, Metadata},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use longshore_run::jobs::StateDir;
use longshore_sys::files::{self, Own};
use ring::digest::{SHA256, digest};

use super::{Value, expand, section::SectionId};

/// Keys that run something, reach out, write where the file says, or change what the user's own
/// words do.
const WAITING: &[&str] = &[
    // What runs, and how.
    "command",
    "pipe",
    "exec",
    "shell",
    "env",
    "cwd",
    "stdin",
    "on-finish",
    // Journals hold command lines, which `--resume` runs.
    "state-dir",
    // Where it reaches.
    "task",
    "http",
    "proxy",
    "header",
    "insecure",
    "broker",
    "results",
    "bootstrap",
    "setting",
    // Who reaches it.
    "listen",
    "web-token",
    "web-password",
    "web-proxy",
    // What it writes.
    "pidfile",
];

/// Returns whether a key of a folder's file waits for the user's word.
pub(super) fn waits(id: &SectionId, name: &str, value: &Value) -> bool {
    // `[routes]` and `[limits]` have names of their own.
    let listed = !matches!(id, SectionId::Route(_) | SectionId::Queue(_) | SectionId::Limit(_)) && WAITING.contains(&name);
    let texts = match value {
        Value::Bool(on) => return listed && *on,
        Value::Text(text) => std::slice::from_ref(text),
        Value::List(list) => list,
    };
    listed || texts.iter().any(|text| expand::reads_variables(text))
}

/// Reads the file of a folder, unless somebody else could have written it.
///
/// # Errors
/// Those of the system; a sentence where the file or its folder belongs to somebody else.
pub fn read(path: &Path) -> io::Result<String> {
    let refuse = |why: String| io::Error::new(io::ErrorKind::PermissionDenied, why);
    // Before it is opened: opening a pipe would wait for its writer.
    files::regular(&fs::metadata(path)?)?;
    let mut file = File::open(path)?;
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for (what, meta) in [("it", file.metadata()?), ("its folder", fs::metadata(folder)?)] {
        if let Some(why) = distrust(&Holder::of(&meta), rustix::process::geteuid().as_raw()) {
            return Err(refuse(format!(
                "{what} {why}, so it is not obeyed; use it by name (--config), or go without (--config /dev/null)"
            )));
        }
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// Owner and rights of a file or a folder.
#[derive(Clone, Copy, Debug)]
struct Holder {
    uid: u32,
    gid: u32,
    mode: u32,
    folder: bool,
}

impl Holder {
    fn of(meta: &Metadata) -> Self {
        Self { uid: meta.uid(), gid: meta.gid(), mode: meta.mode(), folder: meta.is_dir() }
    }
}

/// Returns why this user does not obey what is held so, if that is the case.
fn distrust(holder: &Holder, me: u32) -> Option<String> {
    let Holder { uid, gid, mode, folder } = *holder;
    // In a sticky folder, such as /tmp, nobody replaces a file of somebody else.
    let sticky = folder && mode & 0o1000 != 0;
    match () {
        () if uid != me && uid != 0 => Some(format!("belongs to another user (uid {uid})")),
        () if sticky => None,
        () if mode & 0o002 != 0 => Some("may be written by everybody".to_owned()),
        // A user's own group, which has the user's number, has nobody else in it.
        () if mode & 0o020 != 0 && gid != uid => Some(format!("may be written by others (group {gid})")),
        () => None,
    }
}

/// The words that a user has given: a file for each trusted path, with a digest of its content.
#[derive(Clone, Debug)]
pub struct TrustStore {
    dir: PathBuf,
}

impl TrustStore {
    /// Returns the store of the user with these variables, if there is a place for one.
    pub fn of(vars: &BTreeMap<String, String>) -> Option<Self> {
        let state = StateDir::default_path(|name| vars.get(name).map(PathBuf::from))?;
        Some(Self { dir: state.join("trusted") })
    }

    /// Returns whether the user has let in this content of this file.
    pub fn has(&self, path: &Path, text: &str) -> bool {
        self.says(path, &hex(text.as_bytes()))
    }

    /// Returns whether the user was asked about this content of this file, and said no.
    pub fn has_declined(&self, path: &Path, text: &str) -> bool {
        self.says(path, &no(text))
    }

    fn says(&self, path: &Path, word: &str) -> bool {
        let Ok(place) = self.place(path) else { return false };
        let mut kept = String::new();
        let read = files::own(&place, Own::Read).and_then(|mut file| file.read_to_string(&mut kept));
        read.is_ok() && kept.split_whitespace().next() == Some(word)
    }

    /// Keeps the user's word.
    ///
    /// # Errors
    /// It cannot be kept.
    pub fn trust(&self, path: &Path, text: &str) -> io::Result<()> {
        self.keep(path, &hex(text.as_bytes()))
    }

    /// Keeps that the user said no, so that nobody asks again.
    ///
    /// # Errors
    /// It cannot be kept.
    pub fn decline(&self, path: &Path, text: &str) -> io::Result<()> {
        self.keep(path, &no(text))
    }

    fn keep(&self, path: &Path, word: &str) -> io::Result<()> {
        let place = self.place(path)?;
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let new = place.with_extension("new");
        // What a killed one left.
        let _ = fs::remove_file(&new);
        let mut file = files::own(&new, Own::New)?;
        writeln!(file, "{word} {}", path.canonicalize()?.display())?;
        file.sync_data()?;
        fs::rename(&new, &place)
    }

    /// Takes the word back. Returns whether the file was let in, in whatever state.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn untrust(&self, path: &Path) -> io::Result<bool> {
        let place = self.place(path)?;
        let was_no = fs::read_to_string(&place).is_ok_and(|kept| kept.starts_with(NO));
        match fs::remove_file(place) {
            Ok(()) => Ok(!was_no),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The file about a path. Of a file that is gone the folder has to be there.
    fn place(&self, path: &Path) -> io::Result<PathBuf> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let whole = parent.canonicalize()?.join(path.file_name().unwrap_or_default());
        Ok(self.dir.join(hex(whole.as_os_str().as_encoded_bytes())))
    }
}

/// Begins the word of a user who said no.
const NO: &str = "no:";

fn no(text: &str) -> String {
    format!("{NO}{}", hex(text.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_somebody_else_may_have_written_is_not_obeyed() {
        let (me, other) = (1000, 1001);
        for (uid, gid, mode, folder, want) in [
            (me, me, 0o644, false, None),
            (0, 0, 0o644, false, None),
            (other, me, 0o644, false, Some("belongs to another user (uid 1001)")),
            (me, me, 0o646, false, Some("may be written by everybody")),
            (0, 0, 0o666, false, Some("may be written by everybody")),
            // A group of one's own, as most distributions give, and a shared one.
            (me, me, 0o664, false, None),
            (me, 100, 0o664, false, Some("may be written by others (group 100)")),
            (me, me, 0o775, true, None),
            (me, 100, 0o775, true, Some("may be written by others (group 100)")),
            // /tmp, and a folder that anybody may fill.
            (0, 0, 0o1777, true, None),
            (0, 0, 0o777, true, Some("may be written by everybody")),
            (other, other, 0o1777, true, Some("belongs to another user (uid 1001)")),
        ] {
            let holder = Holder { uid, gid, mode, folder };
            assert_eq!(distrust(&holder, me).as_deref(), want, "{holder:?}");
        }
        // Who is root obeys no file of a user.
        let of_user = Holder { uid: me, gid: me, mode: 0o644, folder: false };
        assert!(distrust(&of_user, 0).is_some());
    }

    #[test]
    fn a_word_is_for_one_file_with_one_content() {
        let dir = tempfile::tempdir().unwrap();
        let vars = BTreeMap::from([("XDG_STATE_HOME".to_owned(), dir.path().join("state").display().to_string())]);
        let store = TrustStore::of(&vars).unwrap();
        let paths = ["a", "b"].map(|name| dir.path().join(name));
        for path in &paths {
            fs::write(path, "one").unwrap();
        }
        let [a, b] = paths;
        assert!(!store.has(&a, "one"));
        store.trust(&a, "one").unwrap();
        store.trust(&a, "one").unwrap();
        assert!(store.has(&a, "one") && !store.has(&a, "two") && !store.has(&b, "one"));
        fs::remove_file(&a).unwrap();
        assert!(store.untrust(&a).unwrap() && !store.untrust(&a).unwrap() && !store.has(&a, "one"));
        // A no is one for this content, and no word.
        store.decline(&b, "one").unwrap();
        assert!(store.has_declined(&b, "one") && !store.has_declined(&b, "two") && !store.has(&b, "one"));
        assert!(!store.untrust(&b).unwrap() && !store.has_declined(&b, "one"));
        assert!(TrustStore::of(&BTreeMap::new()).is_none());
    }
}
