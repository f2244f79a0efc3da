//! What holds for the containers of a pod.

use std::{collections::HashMap, fs};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::guest::{Guest, spec};

scenarios! {
    containers_of_a_pod_share_what_is_the_pods,
}

/// A container of the pod; its processes are among the pod's when `kinds` has "pid".
fn member(script: &str, kinds: &[&str]) -> Value {
    let mut spec = spec(script);
    spec["hostname"] = Value::Null;
    for namespace in spec["linux"]["namespaces"].as_array_mut().into_iter().flatten() {
        if let Some(kind) = kinds.iter().find(|kind| namespace["type"] == **kind) {
            namespace["path"] = json!(format!("/run/securectr/pod/{kind}"));
        }
    }
    for mount in spec["mounts"].as_array_mut().into_iter().flatten() {
        if mount["destination"] == "/dev/shm" {
            *mount = json!({ "destination": "/dev/shm", "type": "bind", "source": "/run/securectr/pod/shm", "options": ["rbind"] });
        }
    }
    spec
}

async fn containers_of_a_pod_share_what_is_the_pods(guest: &mut Guest) -> Result<()> {
    let sysctls = HashMap::from([("kernel.shm_rmid_forced".to_owned(), "1".to_owned())]);
    guest.make_pod("web-0", sysctls.clone(), 8 << 20).await?;
    ensure!(fs::read_to_string("/proc/sys/kernel/shm_rmid_forced")? == "0\n", "set outside the pod");
    ensure!(guest.make_pod("again", sysctls, 8 << 20).await.is_err(), "a second pod");

    let all = ["ipc", "uts", "pid"];
    let script =
        "echo $$ >/dev/shm/pid; hostname; cat /proc/sys/kernel/shm_rmid_forced; echo ready; exec sleep 1000";
    let mut first = guest.create(&member(script, &all)).await?;
    guest.start(&first).await?;
    ensure!(first.read_until("ready").await? == "web-0\n1\nready\n");
    // What keeps the namespaces has nothing that could be reached through it.
    let script = "cat /proc/$(cat /dev/shm/pid)/comm; df -m /dev/shm | awk 'NR == 2 { print $2 }'; ls /proc/1/root/ 2>/dev/null || echo no root; ls /proc/1/fd | wc -l; \
                  kill -9 1; kill -9 $(cat /dev/shm/pid); hostname";
    let said = guest.say_in(&member(script, &all)).await?;
    ensure!(said == "sleep\n8\nno root\n0\nweb-0\n", "{said:?}");
    let end = guest.finish(first).await?.end;
    ensure!(end.signal == 9, "{end:?}");

    let own = "cat /proc/1/comm; echo $$";
    ensure!(guest.say_in(&member(own, &["ipc", "uts"])).await? == "sh\n1\n", "processes of its own");
    Ok(())
}
