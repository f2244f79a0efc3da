//! Structures of KVM in a saved state: hexadecimal digits, one string each, instead of a list of numbers.

use std::fmt::Write;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use zerocopy::{FromBytes, Immutable, IntoBytes};

#[derive(Clone, Debug)]
pub(super) struct Raw<T>(pub(super) T);

impl<T: IntoBytes + Immutable> Serialize for Raw<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut digits = String::new();
        for byte in self.0.as_bytes() {
            // A string takes whatever is written.
            let _ = write!(digits, "{byte:02x}");
        }
        serializer.serialize_str(&digits)
    }
}

impl<'de, T: FromBytes> Deserialize<'de> for Raw<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let digits = <&str>::deserialize(deserializer)?;
        let bytes = bytes(digits).ok_or_else(|| D::Error::custom("these are no hexadecimal digits"))?;
        let value = T::read_from_bytes(&bytes);
        value.map(Self).map_err(|_| D::Error::custom("a structure of KVM has another length"))
    }
}

fn bytes(digits: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = digits.as_bytes().chunks(2);
    // Two digits are a byte.
    pairs.map(|pair| Some((digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?) as u8)).collect()
}

#[cfg(test)]
mod tests {
    use kvm_bindings::kvm_mp_state;

    use super::*;

    fn read(json: &str) -> Result<u32, serde_json::Error> {
        serde_json::from_str::<Raw<kvm_mp_state>>(json).map(|raw| raw.0.mp_state)
    }

    #[test]
    fn what_is_written_is_read() {
        let json = serde_json::to_string(&Raw(kvm_mp_state { mp_state: 0x1234_5678 })).unwrap();
        assert_eq!(json, "\"78563412\"");
        assert_eq!(read(&json).unwrap(), 0x1234_5678);
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "\"7856341\"",
            "\"785634\"",
            "\"7856341234\"",
            "\"7856341g\"",
            "\"785634é\"",
            "[1,2,3,4]",
            "null",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
