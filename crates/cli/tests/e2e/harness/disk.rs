//! A disk that is small enough to be filled.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{eventually, process};

/// Room for an instance, and for a rewind or a copy of it, with what keepers want to be free.
const SIZE: &str = "size=900m,mode=700";
const FILLER: &str = "filler";

/// A file system in memory, or in a file, gone at the end.
#[derive(Debug)]
pub(crate) struct Disk(PathBuf);

/// What kind of disks keepers have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The one that tests run on.
    Shared,
    /// Small ones, which can be filled.
    Small,
    /// Ones that can hang.
    Hanging,
}

impl Disk {
    /// Makes the folder one.
    pub(crate) fn small(folder: &Path) -> Self {
        std::fs::create_dir(folder).expect("a folder");
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", SIZE, "stolon-e2e"])
            .arg(folder));
        process::give(folder);
        Self(folder.to_owned())
    }

    /// Makes the folder one that can hang.
    pub(crate) fn hanging(folder: &Path) -> Self {
        std::fs::create_dir(folder).expect("a folder");
        let file = folder.with_extension("disk");
        run(Command::new("truncate").args(["-s", "900M"]).arg(&file));
        run(Command::new("mkfs.ext4").arg("-q").arg(&file));
        mount(folder);
        std::fs::remove_dir(folder.join("lost+found")).expect("an empty disk");
        process::give(folder);
        Self(folder.to_owned())
    }

    /// Lets it take nothing; for some minutes only, should nobody be left to mend it.
    pub(crate) fn hang(&self) {
        let script =
            "(sleep 300; fsfreeze --unfreeze \"$1\") >/dev/null 2>&1 & fsfreeze --freeze \"$1\"";
        run(Command::new("sh").args(["-c", script, "sh"]).arg(&self.0));
    }

    /// Lets it go on.
    pub(crate) fn go_on(&self) {
        let unfrozen = Command::new("fsfreeze")
            .arg("--unfreeze")
            .arg(&self.0)
            .output();
        // It may not hang at all.
        drop(unfrozen);
    }

    /// Turns one that can hang read-only, as ext4 does after an error of the device (mount(8), "abort").
    pub(crate) fn fail(&self) {
        run(Command::new("mount")
            .args(["-o", "remount,abort"])
            .arg(&self.0));
    }

    /// Mounts that one anew, once nobody uses it any more.
    pub(crate) fn mount_again(&self) {
        eventually("nobody uses the disk", || {
            let unmounted = Command::new("umount").arg(&self.0).output().ok()?;
            unmounted.status.success().then_some(())
        });
        mount(&self.0);
    }

    /// Leaves no room on it.
    pub(crate) fn fill(&self) {
        let status = rustix::fs::statvfs(&self.0).expect("its room");
        let free = status.f_bavail * status.f_frsize;
        let filler = self.0.join(FILLER);
        // Somebody may be faster, and take of the room that is left.
        let left = 64 << 10;
        run(Command::new("fallocate")
            .args(["-l", &free.saturating_sub(left).to_string()])
            .arg(filler));
    }

    /// Makes room again.
    pub(crate) fn empty(&self) {
        std::fs::remove_file(self.0.join(FILLER)).expect("room again");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Also when somebody still looks at it.
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.0).status();
        drop(unmounted);
    }
}

/// Mounts the file that belongs to the folder.
fn mount(folder: &Path) {
    run(Command::new("mount")
        .args(["-o", "loop"])
        .arg(folder.with_extension("disk"))
        .arg(folder));
}

fn run(command: &mut Command) {
    let status = command.status().expect("it runs");
    assert!(status.success(), "{command:?}: {status}");
}
