//! Block devices of the host in a container: as raw volumes, and as file systems to mount.

use std::fs;

use anyhow::{Context, Result, ensure};
use k8s_cri::v1::{ContainerConfig, Device};
use securectr_tests::{
    Bundle, LoopDevice, Runtime, Started, containerd,
    cri::{Member, cri},
    on_each,
};
use serde_json::{Value, json};

const LEN: u64 = 16 << 20;

/// As engines write it.
fn give(bundle: &Bundle, device: &LoopDevice, path: &str, access: &str) -> Result<()> {
    let (major, minor) = device.numbers()?;
    bundle.edit(|spec| {
        let node = json!({"path": path, "type": "b", "major": major, "minor": minor, "fileMode": 0o640, "uid": 5, "gid": 6});
        let rule = json!({"allow": true, "type": "b", "major": major, "minor": minor, "access": access});
        let linux = &mut spec["linux"];
        push(&mut linux["devices"], node);
        let resources = &mut linux["resources"];
        push(&mut resources["devices"], rule);
    })
}

fn push(list: &mut Value, value: Value) {
    if list.is_null() {
        *list = json!([]);
    }
    list.as_array_mut().into_iter().for_each(|list| list.push(value.clone()));
}

fn script(runtime: Runtime, script: &str) -> Result<Bundle> {
    let bundle = Bundle::new(runtime, &["sh", "-c", script])?;
    for set in ["bounding", "permitted", "effective"] {
        bundle.set(&format!("process.capabilities.{set}"), json!(["CAP_DAC_OVERRIDE", "CAP_MKNOD"]))?;
    }
    Ok(bundle)
}

#[test]
fn what_a_container_writes_is_on_the_hosts_device() -> Result<()> {
    on_each(|runtime| {
        let device = LoopDevice::new(LEN)?;
        device.write(4096, b"from the host\n")?;
        let bundle = script(
            runtime,
            "stat -c '%F %a %u:%g' /dev/xvda; blockdev --getsize64 /dev/xvda; \
             dd if=/dev/xvda bs=4096 skip=1 count=1 2>/dev/null | head -n 1; \
             echo from inside | dd of=/dev/xvda bs=512 seek=32767 conv=notrunc 2>/dev/null && echo written; \
             blockdev --getro /dev/xvda",
        )?;
        give(&bundle, &device, "/dev/xvda", "rwm")?;
        let expected = "block special file 640 5:6\n16777216\nfrom the host\nwritten\n0\n";
        assert_eq!(bundle.run()?, expected);
        device.wait_until_free()?;
        assert_eq!(device.medium(LEN - 512, 12)?, b"from inside\n");
        Ok(())
    })
}

#[test]
fn a_device_that_is_only_to_be_read_is_not_written() -> Result<()> {
    on_each(|runtime| {
        let device = LoopDevice::new(LEN)?;
        device.write(0, b"content\n")?;
        let bundle = script(
            runtime,
            "head -n 1 /dev/disk/here; echo x 2>&1 > /dev/disk/here; dd if=/dev/zero of=/dev/disk/here count=1 2>&1 | head -n 1",
        )?;
        give(&bundle, &device, "/dev/disk/here", "rm")?;
        let said = bundle.run()?;
        assert!(said.starts_with("content\n") && said.contains("Operation not permitted"), "{said}");
        assert_eq!(device.medium(0, 8)?, b"content\n");
        Ok(())
    })
}

#[test]
fn a_device_is_read_no_faster_than_its_limit() -> Result<()> {
    on_each(|runtime| {
        let device = LoopDevice::new(LEN)?;
        let (major, minor) = device.numbers()?;
        let bundle = script(
            runtime,
            "cut -d ' ' -f 1 /proc/uptime; dd if=/dev/xvda of=/dev/null bs=1M count=3 2>/dev/null; cut -d ' ' -f 1 /proc/uptime",
        )?;
        give(&bundle, &device, "/dev/xvda", "rwm")?;
        let rate = json!({"major": major, "minor": minor, "rate": 1 << 20});
        bundle.set("linux.resources.blockIO", json!({"throttleReadBpsDevice": [rate]}))?;
        let said = bundle.run()?;
        let times: Vec<f64> = said.lines().map(str::parse).collect::<Result<_, _>>()?;
        let &[begin, end] = times.as_slice() else { anyhow::bail!("{said}") };
        // Without what may have been saved up before.
        ensure!(end - begin >= 1.5, "{said}");
        Ok(())
    })
}

#[test]
fn several_devices_are_told_apart_and_others_stay_away() -> Result<()> {
    on_each(|runtime| {
        let (one, other, third) = (LoopDevice::new(LEN)?, LoopDevice::new(2 * LEN)?, LoopDevice::new(LEN)?);
        for (device, name) in [(&one, "one\n"), (&other, "other\n"), (&third, "third\n")] {
            device.write(0, name.as_bytes())?;
        }
        let bundle = script(
            runtime,
            "head -n 1 /dev/b; head -n 1 /dev/a; head -n 1 /dev/again; \
             (true < /dev/no) 2>/dev/null || echo not the third",
        )?;
        give(&bundle, &one, "/dev/a", "rwm")?;
        give(&bundle, &other, "/dev/b", "rw")?;
        give(&bundle, &one, "/dev/again", "rwm")?;
        // A node alone lets nothing be done.
        let (major, minor) = third.numbers()?;
        bundle.edit(|spec| {
            push(
                &mut spec["linux"]["devices"],
                json!({"path": "/dev/no", "type": "b", "major": major, "minor": minor}),
            );
        })?;
        assert_eq!(bundle.run()?, "other\none\none\nnot the third\n");
        Ok(())
    })
}

#[test]
fn a_file_system_is_mounted_from_the_hosts_device() -> Result<()> {
    on_each(|runtime| {
        let device = LoopDevice::with_ext4(LEN)?;
        let mount = |options: &[&str]| {
            let source = &device.path;
            json!({"destination": "/data", "type": "ext4", "source": source, "options": options})
        };
        let with = |said: &str, options: &[&str]| -> Result<String> {
            let bundle = script(runtime, said)?;
            bundle.edit(|spec| push(&mut spec["mounts"], mount(options)))?;
            let said = bundle.run()?;
            device.wait_until_free()?;
            Ok(said)
        };
        let said = with(
            "echo content > /data/file && grep -o ' /data ext4 .*noexec' /proc/mounts | cut -d' ' -f3",
            &["noexec"],
        )?;
        assert_eq!(said, "ext4\n");
        let said = with("cat /data/file; touch /data/new 2>&1", &["ro"])?;
        assert!(said.starts_with("content\n") && said.contains("Read-only file system"), "{said}");
        Ok(())
    })
}

#[test]
fn a_device_that_cannot_be_had_is_told_by_its_name() -> Result<()> {
    let refused = |bundle: &Bundle, words: &str| -> Result<()> {
        ensure!(!bundle.try_create(&[])?, "{words}: it was created");
        let error = bundle.read("err")?;
        ensure!(error.contains(words), "{words}: {error}");
        bundle.fail(&["state", "c1"])?;
        Ok(())
    };
    let good = script(Runtime::Securectr, "true")?.read("config.json")?;
    let bundle = script(Runtime::Securectr, "true")?;
    let node =
        |major: u32, minor: u32| json!({"path": "/dev/x", "type": "b", "major": major, "minor": minor});
    let allowed = |major: u32, minor: u32| json!({"allow": true, "type": "b", "major": major, "minor": minor, "access": "rwm"});
    let nodes = |count: u32| (0..count).map(|minor| node(4000, minor)).collect::<Vec<_>>();
    let rules = |count: u32| (0..count).map(|minor| allowed(4000, minor)).collect::<Vec<_>>();
    for (count, words) in [(1, "the host has no block device 4000:0"), (9, "9 block devices are too many")] {
        fs::write(bundle.path("config.json"), &good)?;
        bundle.edit(|spec| {
            spec["linux"]["devices"] = json!(nodes(count));
            spec["linux"]["resources"]["devices"] = json!(rules(count));
        })?;
        refused(&bundle, words)?;
    }
    let device = LoopDevice::new(LEN)?;
    let mount = json!({"destination": "/data", "type": "ext4", "source": device.path});
    fs::write(bundle.path("config.json"), &good)?;
    bundle.edit(|spec| push(&mut spec["mounts"], mount.clone()))?;
    refused(&bundle, "mount")?;
    give(&bundle, &device, "/dev/x", "rwm")?;
    refused(&bundle, &format!("the block device {} is in this machine already", device.path.display()))?;
    fs::write(bundle.path("config.json"), &good)?;
    let file = json!({"destination": "/data", "type": "ext4", "source": bundle.path("config.json")});
    bundle.edit(|spec| push(&mut spec["mounts"], file))?;
    refused(&bundle, "is not a block device of the host")
}

#[test]
fn ctr_gives_a_container_a_block_device() -> Result<()> {
    on_each(|runtime| {
        let device = LoopDevice::new(LEN)?;
        let path = device.path.to_string_lossy();
        let write =
            format!("echo from ctr | dd of={path} bs=512 conv=notrunc 2>/dev/null && head -n 1 {path}");
        let mut command =
            containerd()?.run_command(runtime, &["--rm", "--device", &path], "device", &["sh", "-c", &write]);
        let ran = Started::spawn(&mut command)?.finish(b"")?;
        assert_eq!((ran.code, ran.out().as_str()), (0, "from ctr\n"), "{ran:?}");
        device.wait_until_free()?;
        assert_eq!(device.medium(0, 9)?, b"from ctr\n");
        Ok(())
    })
}

#[test]
fn a_privileged_container_has_none_that_was_not_named() -> Result<()> {
    let device = LoopDevice::new(LEN)?;
    device.write(0, b"the host's")?;
    let read = format!("head -c 10 {} 2>/dev/null; echo done", device.path.display());
    let read_by = |runtime| -> Result<String> {
        let options = ["--rm", "--privileged"];
        let mut command = containerd()?.run_command(runtime, &options, "privileged", &["sh", "-c", &read]);
        Ok(Started::spawn(&mut command)?.finish(b"")?.out())
    };
    assert_eq!(read_by(Runtime::Runc)?, "the host'sdone\n");
    assert_eq!(read_by(Runtime::Securectr)?, "done\n");
    Ok(())
}

/// A container of a pod that has the device at `/dev/volume`.
fn with_volume(device: &LoopDevice, permissions: &str) -> impl FnOnce(&mut ContainerConfig) {
    let device = Device {
        host_path: device.path.to_string_lossy().into_owned(),
        container_path: "/dev/volume".to_owned(),
        permissions: permissions.to_owned(),
    };
    |config| config.devices.push(device)
}

fn say(member: &Member<'_>, script: &str) -> Result<String> {
    let finished = member.exec(&["sh", "-c", script])?;
    ensure!(finished.code == 0, "{script}: {finished:?}");
    Ok(finished.out())
}

#[test]
fn a_raw_volume_goes_from_one_container_of_a_pod_to_the_next() -> Result<()> {
    on_each(|runtime| {
        let (volume, small) = (LoopDevice::new(LEN)?, LoopDevice::new(LEN / 2)?);
        let pod = cri()?.pod(runtime, |_| {})?;
        let write = |text: &str| format!("echo {text} | dd of=/dev/volume bs=512 conv=notrunc 2>/dev/null");
        for turn in 0..3 {
            let beside = pod.start(&format!("beside{turn}"), "sleep 1000", with_volume(&small, "r"))?;
            let member = pod.start(&format!("one{turn}"), "sleep 1000", with_volume(&volume, "rwm"))?;
            say(&member, &write(&format!("turn {turn}")))?;
            let seen = say(&member, "head -n 1 /dev/volume; blockdev --getsize64 /dev/volume")?;
            assert_eq!(seen, format!("turn {turn}\n{LEN}\n"));
            assert_eq!(say(&beside, "blockdev --getsize64 /dev/volume")?, format!("{}\n", LEN / 2));
            let refused = beside.exec(&["sh", "-c", "echo x > /dev/volume"])?;
            assert!(refused.err().contains("Operation not permitted"), "{refused:?}");
            member.stop(0)?;
            member.remove()?;
            volume.wait_until_free()?;
            assert_eq!(volume.medium(0, 7)?, format!("turn {turn}\n").get(..7).context("7")?.as_bytes());
            beside.stop(0)?;
            beside.remove()?;
        }
        Ok(())
    })
}

#[test]
fn a_pods_volume_is_free_when_its_container_is_gone_and_refused_while_it_is_not() -> Result<()> {
    let volume = LoopDevice::new(LEN)?;
    let pod = cri()?.pod(Runtime::Securectr, |_| {})?;
    let first = pod.start("first", "sleep 1000", with_volume(&volume, "rwm"))?;
    let second = pod.create("second", "sleep 1000", with_volume(&volume, "rwm"))?;
    let refused = format!("{:#}", second.start().err().context("it was started")?);
    assert!(refused.contains("is in this machine already"), "{refused}");
    first.stop(0)?;
    first.remove()?;
    let third = pod.start("third", "sleep 1000", with_volume(&volume, "rwm"))?;
    assert_eq!(say(&third, "blockdev --getsize64 /dev/volume")?, format!("{LEN}\n"));
    Ok(())
}
