use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::*;

const ALL: [Own; 5] = [Own::Read, Own::Append, Own::AppendOrCreate, Own::WriteOrCreate, Own::New];

fn pipe(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[test]
fn a_file_of_our_own_is_reached_through_no_link_and_is_no_pipe_device_or_directory() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("precious"), "precious").unwrap();
    symlink("precious", at("link")).unwrap();
    symlink("nowhere", at("dangling")).unwrap();
    symlink("/dev/null", at("device")).unwrap();
    pipe(&at("pipe"));
    fs::create_dir(at("directory")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    for name in ["link", "dangling", "device", "pipe", "directory", "socket"] {
        for how in ALL {
            let error = own(&at(name), how).expect_err(name);
            assert!(how == Own::New || !error.to_string().is_empty(), "{name} {how:?}: {error}");
        }
    }
    assert!(own(Path::new("/dev/null"), Own::WriteOrCreate).unwrap_err().to_string().contains("a device"));
    assert!(own(&at("link"), Own::Append).unwrap_err().to_string().contains("a symbolic link"));
    assert!(own(&at("pipe"), Own::WriteOrCreate).unwrap_err().to_string().contains("a pipe"));
    assert_eq!(fs::read_to_string(at("precious")).unwrap(), "precious");
    assert!(!at("nowhere").exists());
}

#[test]
fn a_new_file_of_our_own_is_its_owners_alone_and_is_not_cut_when_it_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    for (name, how) in [("a", Own::AppendOrCreate), ("w", Own::WriteOrCreate), ("n", Own::New)] {
        let path = dir.path().join(name);
        own(&path, how).unwrap().write_all(b"kept").unwrap();
        assert_eq!(mode(&path), 0o600, "{how:?}");
        assert!(own(&path, Own::New).is_err(), "{how:?}");
        let mut text = String::new();
        own(&path, Own::WriteOrCreate).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "kept", "{how:?}");
    }
}

#[test]
fn an_output_follows_the_users_link_and_is_cut_only_if_it_is_a_file_that_is_to_be_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    symlink("file", at("link")).unwrap();
    write_output(&at("link"), b"one").unwrap();
    output(&at("link"), Output::Append).unwrap().write_all(b" two").unwrap();
    assert_eq!(fs::read_to_string(at("file")).unwrap(), "one two");
    write_output(&at("file"), b"3").unwrap();
    assert_eq!(fs::read_to_string(at("file")).unwrap(), "3");
    write_output(Path::new("/dev/null"), b"any").unwrap();
    assert!(output(&at("none"), Output::AppendExisting).is_err() && !at("none").exists());
    assert!(output(dir.path(), Output::Replace).is_err());
}

#[test]
fn an_output_that_is_a_pipe_waits_for_its_reader_and_then_writes_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe");
    pipe(&path);
    // More than a pipe holds: a writer that does not wait would lose the rest.
    let much = vec![7_u8; 1 << 20];
    let reader = thread::spawn({
        let path = path.clone();
        move || fs::read(path).unwrap().len()
    });
    write_output(&path, &much).unwrap();
    assert_eq!(reader.join().unwrap(), much.len());
}

#[test]
fn a_pipe_that_nobody_reads_is_said_and_does_not_hang() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe");
    pipe(&path);
    let error = output(&path, Output::Replace).unwrap_err();
    assert!(error.to_string().contains("nobody reads"), "{error}");
}

#[test]
fn a_name_is_removed_only_while_it_is_the_file_that_was_opened() {
    let dir = tempfile::tempdir().unwrap();
    let (path, other) = (dir.path().join("ours"), dir.path().join("other"));
    let file = own(&path, Own::WriteOrCreate).unwrap();
    fs::rename(&path, &other).unwrap();
    assert!(!remove_own(&path, &file).unwrap(), "it is gone");
    fs::write(&path, "another").unwrap();
    assert!(!remove_own(&path, &file).unwrap(), "it is another file");
    fs::remove_file(&path).unwrap();
    symlink(&other, &path).unwrap();
    assert!(!remove_own(&path, &file).unwrap(), "it is a link to ours");
    assert!(remove_own(&other, &file).unwrap() && !other.exists());
}
