use std::{
    os::unix::fs::{FileExt, PermissionsExt},
    thread,
};

use tempfile::TempDir;

use super::*;
use crate::{Broken, Installation, Settings};

/// A store with a template that was made of files instead of a machine.
struct Made {
    place: TempDir,
    installation: Installation,
    templates: Templates,
    path: PathBuf,
}

impl Made {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let part = |name: &str| {
            fs::write(place.path().join(name), name).unwrap();
            place.path().join(name)
        };
        let installation = Installation {
            vmm: part("vmm"),
            files: part("files"),
            wall: part("wall"),
            kernel: part("kernel"),
            initramfs: part("initramfs"),
        };
        let templates = Templates::kept_in(place.path());
        templates.make_directory().unwrap();
        let inputs = inputs(&installation, 512);
        let path = templates.0.join(inputs.key().unwrap());
        fs::create_dir(&path).unwrap();
        let file = File::create_new(path.join(manifest::MACHINE)).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"saved", 50).unwrap();
        Self { place, installation, templates, path }.sealed()
    }

    /// What is there now is as it should be.
    fn sealed(self) -> Self {
        let machine = File::open(self.path.join(manifest::MACHINE)).unwrap();
        let manifest = Manifest::of(&inputs(&self.installation, 512), &machine).unwrap();
        fs::write(self.path.join(manifest::NAME), serde_json::to_vec(&manifest).unwrap()).unwrap();
        self
    }

    fn open(&self) -> Result<Option<Template>, TemplateError> {
        open(&self.path, &inputs(&self.installation, 512))
    }

    /// Why it is not used; afterwards it is gone.
    fn refusal(&self) -> Refusal {
        match self.open() {
            Err(TemplateError::Refused { source, .. }) => {
                assert!(!self.path.exists());
                source
            }
            Ok(_) => panic!("it was used"),
            Err(other) => panic!("{other}"),
        }
    }

    fn machine(&self) -> File {
        File::options().write(true).open(self.path.join(manifest::MACHINE)).unwrap()
    }
}

fn inputs(installation: &Installation, memory_mib: u32) -> Inputs {
    let plan = MachinePlan::bare(&Settings::with_memory_mib(memory_mib));
    Inputs::of(&plan, &Kind::planned(&plan, true, true), installation).unwrap()
}

#[test]
fn a_template_is_used_as_long_as_it_is_what_was_made() {
    let made = Made::new();
    assert!(matches!(made.open(), Ok(Some(_))));
    let listed = made.templates.list().unwrap();
    assert_eq!((listed.len(), listed[0].kind.memory_mib), (1, 512));
    assert_eq!(made.templates.verify(&listed[0].key[..4]).unwrap(), listed[0].key);
}

#[test]
fn one_that_is_not_there_is_no_fault() {
    let made = Made::new();
    fs::remove_dir_all(&made.path).unwrap();
    assert!(matches!(made.open(), Ok(None)));
    assert!(matches!(made.templates.verify("0"), Err(TemplateError::Missing(_))));
}

#[test]
fn a_file_that_was_touched_is_refused() {
    let made = Made::new();
    // The kernel's clock for files may stand still for some milliseconds.
    thread::sleep(Duration::from_millis(20));
    made.machine().write_all_at(b"s", 50).unwrap();
    assert!(matches!(made.refusal(), Refusal::Broken(Broken::Changed(manifest::MACHINE))));
}

#[test]
fn a_file_that_was_cut_is_refused() {
    let made = Made::new();
    made.machine().set_len(1 << 20).unwrap();
    assert!(matches!(made.refusal(), Refusal::Broken(Broken::Changed(manifest::MACHINE))));
}

#[test]
fn a_file_that_others_can_write_is_refused() {
    let made = Made::new();
    made.machine().set_permissions(PermissionsExt::from_mode(0o660)).unwrap();
    assert!(matches!(made.sealed().refusal(), Refusal::Broken(Broken::Foreign(manifest::MACHINE))));
}

#[test]
fn a_link_is_refused() {
    let made = Made::new();
    let elsewhere = made.place.path().join("elsewhere");
    fs::rename(made.path.join(manifest::MACHINE), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, made.path.join(manifest::MACHINE)).unwrap();
    assert!(matches!(made.refusal(), Refusal::Broken(Broken::Read(manifest::MACHINE, _))));
}

#[test]
fn a_manifest_of_another_format_or_of_none_is_refused() {
    let made = Made::new();
    let path = made.path.join(manifest::NAME);
    let json = fs::read_to_string(&path).unwrap();
    fs::write(&path, json.replacen("\"format\":2", "\"format\":3", 1)).unwrap();
    assert!(matches!(made.refusal(), Refusal::Format(3)));
    let made = Made::new();
    fs::write(made.path.join(manifest::NAME), "{").unwrap();
    assert!(matches!(made.refusal(), Refusal::Json(_)));
}

#[test]
fn a_template_of_something_else_is_refused_under_a_name_that_is_not_its_own() {
    let made = Made::new();
    let refused = open(&made.path, &inputs(&made.installation, 1024));
    assert!(matches!(refused, Err(TemplateError::Refused { source: Refusal::Inputs, .. })));
}

#[test]
fn what_is_made_from_something_else_has_another_name() {
    let made = Made::new();
    let key = || inputs(&made.installation, 512).key().unwrap();
    let before = key();
    assert_eq!(before, key());
    assert_ne!(before, inputs(&made.installation, 1024).key().unwrap());
    for part in [&made.installation.kernel, &made.installation.initramfs, &made.installation.vmm] {
        let before = key();
        fs::write(part, "anew and longer").unwrap();
        assert_ne!(key(), before, "{}", part.display());
    }
}

#[test]
fn damage_below_the_file_system_is_found_by_reading_all() {
    let made = Made::new();
    let path = made.path.join(manifest::NAME);
    let json = fs::read_to_string(&path).unwrap();
    let start = json.find("\"sha256\":\"").unwrap() + 10;
    let other = if json.as_bytes()[start] == b'0' { "1" } else { "0" };
    fs::write(&path, [&json[..start], other, &json[start + 1..]].concat()).unwrap();
    assert!(made.open().is_ok());
    let found = made.templates.verify(&name_of(&made.path));
    assert!(matches!(
        found,
        Err(TemplateError::Refused { source: Refusal::Broken(Broken::Changed(manifest::MACHINE)), .. })
    ));
}

#[test]
fn no_more_are_kept_than_are_used_now_and_then() {
    let made = Made::new();
    for number in 0..MOST_KEPT + 2 {
        fs::create_dir(made.templates.0.join(format!("{number:032x}"))).unwrap();
    }
    made.templates.forget_oldest(&made.path).unwrap();
    assert_eq!(made.templates.paths().unwrap().len(), MOST_KEPT);
    assert!(made.path.exists());
}

#[test]
fn what_a_killed_process_left_goes() {
    let made = Made::new();
    let left = made.templates.0.join(format!("{}x", make::UNFINISHED));
    fs::create_dir(&left).unwrap();
    made.templates.sweep();
    assert!(!left.exists() && made.path.exists());
}
