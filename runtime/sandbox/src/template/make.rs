//! How a template is made: a machine boots without anything behind its devices, and is saved when its agent waits.

use std::{
    fs::{self, File, Permissions},
    io::{self, Write},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{OpenOptionsExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
    sync::Arc,
    time::Duration,
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use securectr_vmm::spec::{DiskSpec, NetSpec, Wire};
use tokio::time::sleep;

use super::{
    TemplateError,
    inputs::{Inputs, Kind},
    io_error,
    manifest::{self, Manifest},
};
use crate::{
    BootError, Host, MachinePlan, SandboxId, boot,
    equipment::{Equipment, Origin},
    network::device_mac,
    undo::Undo,
};

/// How long a guest may do what it has put off until after its boot: what is done here, no machine has to do again.
const SETTLING: Duration = Duration::from_millis(200);

/// How the name of a directory begins in which there is no template yet.
pub(super) const UNFINISHED: &str = "new-";

/// Makes the template in a directory that is not there yet.
pub(super) async fn make(
    path: &Path,
    plan: &MachinePlan,
    inputs: &Inputs,
    host: &Host,
) -> Result<(), TemplateError> {
    let parent = path.parent().unwrap_or(path);
    // It goes with an error, and what a killed process has left goes with the next one that is made.
    let private = Permissions::from_mode(0o700);
    let place = tempfile::Builder::new().prefix(UNFINISHED).permissions(private).tempdir_in(parent);
    let place = place.map_err(io_error("make a directory in", parent))?;
    let machine = create(place.path(), manifest::MACHINE)?;
    save(plan, &inputs.kind, host, &machine).await?;
    // What a crash leaves is whole, or has no manifest.
    let manifest = machine.sync_all().and_then(|()| Manifest::of(inputs, &machine));
    let manifest = manifest.map_err(io_error("write", place.path()))?;
    let json = serde_json::to_vec_pretty(&manifest).map_err(TemplateError::Describe)?;
    let described = create(place.path(), manifest::NAME)?.write_all(&json);
    described.map_err(io_error("write", place.path()))?;
    fs::rename(place.path(), path).map_err(io_error("name", path))?;
    // It has another name now.
    let _ = place.keep();
    Ok(())
}

/// Boots the machine, and saves it into a file.
async fn save(plan: &MachinePlan, kind: &Kind, host: &Host, to: &File) -> Result<(), TemplateError> {
    let machine = async {
        let id = SandboxId::random().map_err(|error| BootError::Descriptor("name", error))?;
        let state = Arc::new(host.state.create(&id)?);
        let mut undo = Undo::default();
        undo.push({
            let state = Arc::clone(&state);
            move || state.remove()
        });
        let listener = UnixListener::bind(state.vsock_path());
        let listener = listener.map_err(|error| BootError::Descriptor("vsock socket", error))?;
        let mut equipment = Equipment::new(listener, host.echo_console)?;
        let others = add_placeholders(kind, &mut equipment)
            .map_err(|error| BootError::Descriptor("placeholders", error))?;
        let origin = Origin::kernel(&host.installation)?;
        let (vmm, rpc) = boot::start(plan, &host.installation, equipment, origin).await?;
        let agent = boot::greeted(&vmm, rpc).await?;
        // It has answered once, so that it need not find out how in each machine.
        agent.ping().await.map_err(BootError::Agent)?;
        Ok((undo, others, agent, vmm))
    };
    let (_undo, _others, _agent, vmm) =
        machine.await.map_err(|error| TemplateError::Boot(Box::new(error)))?;
    sleep(SETTLING).await;
    vmm.save(to).await.map_err(TemplateError::Save)
}

/// Gives a machine devices of this kind, with nothing behind them. The other ends are to be kept as long as it runs.
fn add_placeholders(kind: &Kind, equipment: &mut Equipment) -> io::Result<Vec<OwnedFd>> {
    let mut others = Vec::new();
    let disk = |&read_only| DiskSpec { file: None, read_only, limits: None };
    equipment.devices.disks = kind.disks.iter().map(disk).collect();
    for (number, net) in kind.nets.iter().enumerate() {
        let mut wire = None;
        if net.is_stream {
            let (other, stream) = UnixStream::pair()?;
            wire = Some(Wire::Stream(equipment.lay(stream)));
            others.push(other.into());
        }
        equipment.devices.nets.push(NetSpec { wire, mac: device_mac(number), mtu: net.mtu });
    }
    if kind.has_shares {
        let (other, server) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        equipment.add_shares(server);
        others.push(other);
    }
    Ok(others)
}

fn create(directory: &Path, name: &str) -> Result<File, TemplateError> {
    let path = directory.join(name);
    File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(io_error("make", &path))
}
