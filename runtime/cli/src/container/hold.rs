//! A container that stands still for somebody who saves it: until they say more or go, so that nobody's end leaves it so.

use std::{
    fs::File,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use securectr_sandbox::copy_disk;
use tokio::task::spawn_blocking;

use super::{
    book::locked,
    control::{Moment, Request},
    record::Status,
    serve::Container,
};

/// What a saved container consists of, in a directory.
pub(crate) const MACHINE: &str = "machine";
pub(crate) const DISK: &str = "disk.ext4";

/// Whether a connection holds its container, and whether that was paused before.
#[derive(Default)]
pub(super) struct Hold(Option<bool>);

impl Container {
    /// Whether a request can be answered while the container is held, by a guest that does not run.
    pub(super) fn is_for_later(&self, request: &Request) -> bool {
        let needs_no_guest = matches!(
            request,
            Request::Wait
                | Request::Attach { .. }
                | Request::Rename { .. }
                | Request::Restart(_)
                | Request::Kill { .. }
                | Request::GoOn
                | Request::End { .. }
        );
        locked(&self.book).is_held && !needs_no_guest
    }

    pub(super) async fn save(&self, directory: PathBuf, hold: &mut Hold) -> Result<Moment> {
        let (is_paused, disk) = self.begin_hold()?;
        let saved = self.save_machine(&directory, is_paused, disk).await;
        let saved = match saved {
            Ok(vcpu_count) => vcpu_count,
            Err(error) => {
                locked(&self.book).is_held = false;
                return Err(error);
            }
        };
        hold.0 = Some(is_paused);
        Ok(Moment { guest_id: self.plan.id.clone(), vcpu_count: saved, is_paused })
    }

    /// Says whether it was paused, and where its disk is.
    fn begin_hold(&self) -> Result<(bool, PathBuf)> {
        let mut book = locked(&self.book);
        if book.record.kept.as_ref().is_none_or(|kept| kept.is_in_foreground) {
            bail!("only a container that stays can be saved (run -d)");
        }
        let is_paused = match book.record.status {
            _ if book.is_held => bail!("the container is being saved already"),
            Status::Running => false,
            Status::Paused => true,
            _ => bail!("container not running"),
        };
        book.is_held = true;
        Ok((is_paused, book.place.path().join(DISK)))
    }

    async fn save_machine(&self, directory: &Path, is_paused: bool, disk: PathBuf) -> Result<u8> {
        let path = directory.join(MACHINE);
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = file.with_context(|| format!("make {}", path.display()))?;
        let vcpu_count = self.sandbox.save(&self.plan, is_paused, &file).await?;
        if disk.exists() {
            let to = directory.join(DISK);
            let copied = spawn_blocking(move || copy_disk(&disk, &to)).await;
            if let Err(error) = copied.map_err(anyhow::Error::from).and_then(|copied| Ok(copied?)) {
                let _ = self.sandbox.go_on(&self.plan, is_paused).await;
                return Err(error);
            }
        }
        Ok(vcpu_count)
    }

    /// Nothing, for a connection that holds nothing.
    pub(super) async fn go_on(&self, hold: &mut Hold) -> Result<()> {
        let Some(is_paused) = hold.0.take() else { return Ok(()) };
        locked(&self.book).is_held = false;
        Ok(self.sandbox.go_on(&self.plan, is_paused).await?)
    }

    /// For the sake of a checkpoint, from which it goes on.
    pub(super) fn end(&self, checkpoint: String, hold: &mut Hold) -> Result<()> {
        if hold.0.take().is_none() {
            bail!("the container is not held");
        }
        let mut book = locked(&self.book);
        book.asked = Some(libc::SIGKILL.unsigned_abs());
        book.saved_as = Some(checkpoint);
        self.sandbox.end();
        Ok(())
    }
}
