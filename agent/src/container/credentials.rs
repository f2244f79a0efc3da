//! Who a process is: limits, user, groups, capabilities, seccomp. The last steps before its program.

use std::io;

use rustix::{
    fs::Mode,
    process::{chdir, setrlimit, umask},
    thread::{
        CapabilitySets, clear_ambient_capability_set, configure_capability_in_ambient_set,
        remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities, set_no_new_privs,
        set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    },
};

use super::{
    failure::{During, Failure},
    sys,
};
use crate::plan::{Capabilities, ProcessPlan};

/// What a process has when the spec does not say.
const DEFAULT_UMASK: u32 = 0o022;

/// Afterwards the process has no more rights than its program is to have.
pub(super) fn assume(plan: &ProcessPlan) -> Result<(), Failure> {
    chdir(&plan.cwd).during(|| format!("change to the directory {}", plan.cwd.to_string_lossy()))?;
    umask(Mode::from_raw_mode(plan.umask.unwrap_or(DEFAULT_UMASK)));
    for (resource, limit) in &plan.rlimits {
        setrlimit(*resource, *limit).during(|| format!("set the limit {resource:?}"))?;
    }
    if let Some(domain) = plan.personality {
        sys::set_personality(domain).during(|| "set the personality".into())?;
    }
    if !plan.no_new_privileges {
        // Without no_new_privs a filter needs CAP_SYS_ADMIN, so it comes on as long as that is there.
        load_seccomp(plan)?;
    }
    change_user(plan).during(|| format!("become user {} and group {}", plan.uid, plan.gid))?;
    take_capabilities(&plan.capabilities).during(|| "set the capabilities".into())?;
    if plan.no_new_privileges {
        set_no_new_privs(true).during(|| "set no_new_privs".into())?;
        load_seccomp(plan)?;
    }
    Ok(())
}

fn load_seccomp(plan: &ProcessPlan) -> Result<(), Failure> {
    match &plan.seccomp {
        Some(filter) => sys::load_seccomp(filter).during(|| "load the seccomp filter".into()),
        None => Ok(()),
    }
}

fn change_user(plan: &ProcessPlan) -> io::Result<()> {
    // Needs CAP_SETPCAP, which the change of user takes away.
    for capability in plan.capabilities.unbounded() {
        remove_capability_from_bounding_set(capability)?;
    }
    set_keep_capabilities(true)?;
    let groups: Vec<_> = plan.additional_gids.iter().map(|&gid| rustix::fs::Gid::from_raw(gid)).collect();
    set_thread_groups(&groups)?;
    let gid = rustix::fs::Gid::from_raw(plan.gid);
    set_thread_res_gid(gid, gid, gid)?;
    let uid = rustix::fs::Uid::from_raw(plan.uid);
    Ok(set_thread_res_uid(uid, uid, uid)?)
}

fn take_capabilities(plan: &Capabilities) -> io::Result<()> {
    let sets = CapabilitySets {
        effective: plan.effective,
        permitted: plan.permitted,
        inheritable: plan.inheritable,
    };
    set_capabilities(None, sets)?;
    clear_ambient_capability_set()?;
    for capability in plan.ambient.iter() {
        configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}
