//! Directories that outlast a power loss.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::Path;

/// Makes a directory, and whatever of the path to it is missing. The name of each one that is made is synced: what is
/// promised on files below it must not be lost with it.
///
/// # Errors
/// The disk refused a call, or something that is no directory is in the way.
pub fn make_directory(path: &Path) -> io::Result<()> {
    make(path, |parent| File::open(parent)?.sync_all())
}

fn make(path: &Path, mut sync: impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    let missing = |part: &&Path| !part.as_os_str().is_empty() && !part.is_dir();
    let missing: Vec<&Path> = path.ancestors().take_while(missing).collect();
    for directory in missing.into_iter().rev() {
        match fs::create_dir(directory) {
            // Another process made it meanwhile; it may die before it syncs.
            Err(error) if error.kind() == ErrorKind::AlreadyExists && directory.is_dir() => {}
            made => made?,
        }
        let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync(parent.unwrap_or(Path::new(".")))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_each_directory_that_is_made_is_synced_and_no_other() {
        let home = tempfile::tempdir().unwrap();
        let nested = home.path().join("a/b/c");
        let mut synced = Vec::new();
        let mut note = |parent: &Path| {
            synced.push(parent.to_owned());
            Ok(())
        };
        make(&nested, &mut note).unwrap();
        make(&nested, &mut note).unwrap();
        assert_eq!(synced, [home.path().to_owned(), home.path().join("a"), home.path().join("a/b")]);
        fs::write(nested.join("kept"), "x").unwrap();
        make_directory(&nested).unwrap();
        make_directory(&nested.join("d/e")).unwrap();
        assert!(nested.join("d/e").is_dir() && nested.join("kept").is_file());
    }

    #[test]
    fn a_file_in_the_way_and_a_sync_that_fails_are_errors() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        fs::write(&file, "x").unwrap();
        assert!(make_directory(&file).is_err() && make_directory(&file.join("below")).is_err());
        assert!(make(&home.path().join("new"), |_| Err(ErrorKind::Other.into())).is_err());
    }
}
