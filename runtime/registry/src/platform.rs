//! Which entry of an index is for a platform: as containerd has it (its package `platforms`, `compare.go`).

use oci_spec::image::{Descriptor, Platform as Offered};
use securectr_registry::Platform;

/// The entry that fits best, the first of those that fit alike. One that states no platform will do where nothing fits better: it
/// is an index inside an index, or an image whose configuration decides.
pub(crate) fn choose<'a>(wanted: &Platform, offered: &'a [Descriptor]) -> Option<&'a Descriptor> {
    offered
        .iter()
        .filter_map(|one| Some((rank(wanted, one.platform().as_ref())?, one)))
        .min_by_key(|(rank, _)| *rank)
        .map(|(_, one)| one)
}

/// For people: `linux/arm/v7, linux/amd64`.
pub(crate) fn list(offered: &[Descriptor]) -> String {
    let mut names: Vec<_> = offered.iter().filter_map(|one| one.platform().as_ref()).map(name).collect();
    names.dedup();
    if names.is_empty() { "nothing that states a platform".into() } else { names.join(", ") }
}

fn name(platform: &Offered) -> String {
    let variant = platform.variant().as_ref().map(|variant| format!("/{variant}")).unwrap_or_default();
    format!("{}/{}{variant}", platform.os(), platform.architecture())
}

/// 0 is best; none is no fit.
fn rank(wanted: &Platform, offered: Option<&Offered>) -> Option<u32> {
    let Some(offered) = offered else { return Some(u32::MAX) };
    let is_same =
        offered.os().to_string() == wanted.os && offered.architecture().to_string() == wanted.architecture;
    if !is_same {
        return None;
    }
    let level = |variant: Option<&str>| match variant {
        Some(variant) if !variant.is_empty() => variant.strip_prefix('v')?.parse::<u32>().ok(),
        _ => Some(level_of_no_variant(&wanted.architecture)),
    };
    let (ours, theirs) = (level(wanted.variant.as_deref()), level(offered.variant().as_deref()));
    match (ours, theirs) {
        (Some(ours), Some(theirs)) => ours.checked_sub(theirs),
        // A variant that is no level fits itself.
        _ => (wanted.variant == *offered.variant()).then_some(0),
    }
}

/// containerd's `database.go`, `normalizeArch`: what an entry without a variant is.
fn level_of_no_variant(architecture: &str) -> u32 {
    match architecture {
        "arm" => 7,
        "arm64" => 8,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(architecture: &str, variant: Option<&str>) -> Platform {
        Platform { os: "linux".into(), architecture: architecture.into(), variant: variant.map(Into::into) }
    }

    /// Each as `os/architecture[/variant]`, or `-` for none; its size is its index.
    fn index(platforms: &[&str]) -> Vec<Descriptor> {
        let entry = |(number, platform): (usize, &&str)| {
            let mut parts = platform.split('/');
            let mut entry = serde_json::json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": format!("sha256:{}", "0".repeat(64)),
                "size": number,
            });
            if *platform != "-" {
                entry["platform"] = serde_json::json!({"os": parts.next(), "architecture": parts.next()});
                if let Some(variant) = parts.next() {
                    entry["platform"]["variant"] = variant.into();
                }
            }
            serde_json::from_value(entry).unwrap()
        };
        platforms.iter().enumerate().map(entry).collect()
    }

    fn chosen(wanted: &Platform, platforms: &[&str]) -> Option<u64> {
        choose(wanted, &index(platforms)).map(Descriptor::size)
    }

    #[test]
    fn amd64_is_found_with_and_without_its_variant() {
        let amd64 = wanted("amd64", None);
        assert_eq!(chosen(&amd64, &["windows/amd64", "linux/arm64", "linux/amd64"]), Some(2));
        assert_eq!(chosen(&amd64, &["linux/amd64/v2", "linux/amd64/v1"]), Some(1));
        assert_eq!(chosen(&amd64, &["linux/amd64/v2"]), None);
    }

    #[test]
    fn the_newest_variant_that_runs_is_taken() {
        let all = ["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"];
        assert_eq!(chosen(&wanted("amd64", Some("v3")), &all), Some(1));
        assert_eq!(chosen(&wanted("arm", None), &["linux/arm/v5", "linux/arm/v7", "linux/arm/v6"]), Some(1));
        assert_eq!(chosen(&wanted("arm64", None), &["linux/arm64/v8"]), Some(0));
    }

    #[test]
    fn who_states_no_platform_comes_last() {
        assert_eq!(chosen(&wanted("amd64", None), &["-", "linux/amd64"]), Some(1));
        assert_eq!(chosen(&wanted("amd64", None), &["unknown/unknown", "-"]), Some(1));
    }
}
