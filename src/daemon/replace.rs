//! Replacing a file as a whole.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::Path;

/// Makes `text` the content of a file: all of it or nothing, whatever happens meanwhile. Links, mode and owner stay.
///
/// # Errors
/// Why not; the file is as it was then.
pub fn replace_file(path: &Path, text: &[u8]) -> io::Result<()> {
    // What is to be replaced is what a symbolic link leads to.
    let path = match path.canonicalize() {
        Ok(real) => real,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(error),
    };
    let old = path.metadata().ok();
    if old.as_ref().is_some_and(|old| !old.is_file()) {
        // A pipe or /dev/stdout takes it as it comes, and a folder refuses. Neither is to be replaced.
        return OpenOptions::new().write(true).open(&path)?.write_all(text);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Less what the umask takes away, as with every new file.
    let mode = Permissions::from_mode(0o666);
    let mut new = tempfile::Builder::new().prefix(".ioband-save").permissions(mode).tempfile_in(folder)?;
    if let Some(old) = &old {
        // Only root can, and for all others it is theirs mostly. Before the mode, from which it may take something.
        let _ = fchown(new.as_file(), Some(old.uid()), Some(old.gid()));
        new.as_file().set_permissions(old.permissions())?;
    }
    new.write_all(text)?;
    new.as_file().sync_all()?;
    new.persist(&path)?;
    // The new name is durable, too.
    File::open(folder)?.sync_all()
}

/// Whether a file is replaced by that, or made. Anything else is written to, which may have to wait for whoever reads it.
pub(super) fn is_replaced(path: &Path) -> bool {
    path.metadata().map_or(true, |old| old.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = entries.collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_and_keeps_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.yaml");
        replace_file(&file, b"one").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"one");
        assert_eq!(file.metadata().unwrap().mode() & 0o600, 0o600);
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        let before = file.metadata().unwrap();
        // Whoever reads the old one goes on with it.
        let open = File::open(&file).unwrap();
        replace_file(&file, b"two").unwrap();
        assert_eq!(io::read_to_string(open).unwrap(), "one");
        assert_eq!(fs::read(&file).unwrap(), b"two");
        let after = file.metadata().unwrap();
        assert_eq!((after.mode(), after.uid()), (before.mode(), before.uid()));
        assert_eq!(names(folder.path()), ["c.yaml"]);
    }

    #[test]
    fn a_link_stays_one() {
        let folder = tempfile::tempdir().unwrap();
        let [file, link] = ["file", "link"].map(|name| folder.path().join(name));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        replace_file(&link, b"new").unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"new");
    }

    #[test]
    fn what_is_no_file_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(replace_file(folder.path(), b"x").unwrap_err().kind(), io::ErrorKind::IsADirectory);
        let missing = folder.path().join("none/c.yaml");
        assert_eq!(replace_file(&missing, b"x").unwrap_err().kind(), io::ErrorKind::NotFound);
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(!is_replaced(&pipe) && !is_replaced(folder.path()) && is_replaced(&missing));
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        replace_file(&pipe, b"through it").unwrap();
        assert_eq!(reader.join().unwrap(), b"through it");
        assert_eq!(names(folder.path()), ["pipe"]);
    }
}
