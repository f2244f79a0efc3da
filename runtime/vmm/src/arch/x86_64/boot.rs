//! Lays kernel, initramfs, command line and boot structures into guest memory.

use std::{fs::File, io, ops::Range, os::unix::fs::MetadataExt};

use linux_loader::{
    cmdline::Cmdline,
    loader::{Elf, KernelLoader},
};
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion};

use super::{boot_params::boot_params, layout, mptable};
use crate::memory::GuestMemory;

/// Flat descriptors for [`layout::GDT_CODE`] and the next two: 64-bit code, data, and a busy task segment.
const GDT: [u64; 5] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x0000_8b00_0000_0000];

/// Bits of page table entries (Intel's manual, volume 3A, section 4.5).
const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const LARGE: u64 = 1 << 7;

const PAGE_LEN: u64 = 4096;
const LARGE_PAGE_LEN: u64 = 2 << 20;

#[derive(Debug, Error)]
pub(crate) enum BootError {
    #[error("load the guest kernel")]
    Kernel(#[source] linux_loader::loader::Error),
    #[error("read the initramfs")]
    Initramfs(#[source] io::Error),
    #[error("lay the initramfs into guest memory")]
    LayInitramfs(#[source] GuestMemoryError),
    #[error(
        "the guest's memory is too small: kernel and initramfs need {needed} bytes of the {available} there are"
    )]
    MemoryTooSmall { needed: u64, available: u64 },
    #[error("make up the kernel's command line")]
    CommandLine(#[source] linux_loader::cmdline::Error),
    #[error("write boot structures into guest memory")]
    Write(#[source] GuestMemoryError),
}

/// Prepares memory so that the first vCPU can start at the address that is returned. `device_count` devices are told to the
/// kernel by its command line.
pub(crate) fn load(
    memory: &GuestMemory,
    image: BootImage,
    vcpu_count: u8,
    device_count: usize,
) -> Result<GuestAddress, BootError> {
    let ranges: Vec<Range<u64>> =
        memory.iter().map(|region| region.start_addr().0..region.last_addr().0 + 1).collect();
    let command_line = with_devices(&image.command_line, device_count)?;
    let (entry, kernel_end) = load_kernel(memory, image.kernel)?;
    let low_end = ranges.first().map_or(0, |range| range.end);
    let initramfs = load_initramfs(memory, image.initramfs, kernel_end..low_end)?;
    let params = boot_params(&ranges, &initramfs, command_line.len() - 1);
    let write =
        |bytes: &[u8], address| memory.write_slice(bytes, GuestAddress(address)).map_err(BootError::Write);
    write(&command_line, layout::COMMAND_LINE)?;
    write(vm_memory::ByteValued::as_slice(&params), layout::ZERO_PAGE)?;
    write(&mptable::table(vcpu_count), layout::MP_TABLE)?;
    write(&mptable::pointer(), layout::MP_POINTER)?;
    write(&bytes(&GDT), layout::GDT)?;
    for (table, address) in page_tables() {
        write(&table, address)?;
    }
    Ok(entry)
}

/// What a guest boots from.
pub(crate) struct BootImage {
    pub kernel: File,
    pub initramfs: File,
    /// Without what tells of the devices.
    pub command_line: String,
}

/// With its final NUL.
fn with_devices(command_line: &str, device_count: usize) -> Result<Vec<u8>, BootError> {
    let mut whole = Cmdline::new(layout::COMMAND_LINE_LEN).map_err(BootError::CommandLine)?;
    whole.insert_str(command_line).map_err(BootError::CommandLine)?;
    for index in 0..device_count {
        let start = GuestAddress(layout::device_window(index).start);
        whole
            .add_virtio_mmio_device(layout::DEVICE_WINDOW_LEN, start, layout::device_gsi(index), None)
            .map_err(BootError::CommandLine)?;
    }
    let whole = whole.as_cstring().map_err(BootError::CommandLine)?;
    Ok(whole.into_bytes_with_nul())
}

/// Answers with the entry and the end of the kernel. It is copied: mapping its file instead saves 7 ms of copying, but then each
/// page that the guest touches is a fault of 4 KiB, where anonymous memory comes in huge pages; boot took half as long again
/// (counted in the test host).
fn load_kernel(memory: &GuestMemory, mut kernel: File) -> Result<(GuestAddress, u64), BootError> {
    let least = Some(GuestAddress(layout::HIGH_MEMORY));
    let loaded = Elf::load(memory, None, &mut kernel, least).map_err(BootError::Kernel)?;
    Ok((loaded.kernel_load, loaded.kernel_end))
}

/// As high as it fits below the hole, so that the kernel's own early needs do not meet it.
fn load_initramfs(memory: &GuestMemory, mut file: File, room: Range<u64>) -> Result<Range<u64>, BootError> {
    let len = file.metadata().map_err(BootError::Initramfs)?.size();
    let too_small = BootError::MemoryTooSmall { needed: room.start.saturating_add(len), available: room.end };
    let start = room.end.checked_sub(len).map(|start| start & !(PAGE_LEN - 1));
    let start = start.filter(|&start| start >= room.start).ok_or(too_small)?;
    memory
        .read_exact_volatile_from(GuestAddress(start), &mut file, len as usize)
        .map_err(BootError::LayInitramfs)?;
    Ok(start..start + len)
}

/// The first GiB on itself, in pages of 2 MiB: enough to reach all that [`load`] has written but the initramfs, for which the
/// kernel makes its own. Each table with its address.
fn page_tables() -> [(Vec<u8>, u64); 3] {
    let pages: Vec<u64> =
        (0..PAGE_LEN / 8).map(|index| (index * LARGE_PAGE_LEN) | PRESENT | WRITABLE | LARGE).collect();
    [
        (bytes(&[layout::PDPT | PRESENT | WRITABLE]), layout::PML4),
        (bytes(&[layout::PAGE_DIRECTORY | PRESENT | WRITABLE]), layout::PDPT),
        (bytes(&pages), layout::PAGE_DIRECTORY),
    ]
}

fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::memory;

    fn file(content: &[u8]) -> File {
        let mut file = vmm_sys_util::tempfile::TempFile::new().unwrap().into_file();
        file.write_all(content).unwrap();
        io::Seek::rewind(&mut file).unwrap();
        file
    }

    #[test]
    fn devices_are_told_by_the_command_line() {
        let line = String::from_utf8(with_devices("quiet", 2).unwrap()).unwrap();
        assert_eq!(line, "quiet virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=4K@0xd0001000:6\0");
    }

    #[test]
    fn a_command_line_that_linux_would_cut_is_refused() {
        let long = "x".repeat(layout::COMMAND_LINE_LEN - 1);
        assert!(with_devices(&long, 0).is_ok());
        assert!(matches!(with_devices(&long, 1), Err(BootError::CommandLine(_))));
        assert!(matches!(with_devices("a\nb", 0), Err(BootError::CommandLine(_))));
    }

    #[test]
    fn the_initramfs_lies_at_the_end_of_memory() {
        let memory = memory::allocate(2).unwrap();
        let range = load_initramfs(&memory, file(&[7; 5000]), 0..2 << 20).unwrap();
        assert_eq!(range, (2 << 20) - 8192..(2 << 20) - 8192 + 5000);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(range.end - 1)).unwrap(), 7);
    }

    #[test]
    fn an_initramfs_that_would_meet_the_kernel_is_refused() {
        let memory = memory::allocate(2).unwrap();
        let refused = load_initramfs(&memory, file(&[7; 5000]), (2 << 20) - 8191..2 << 20);
        assert!(matches!(refused, Err(BootError::MemoryTooSmall { .. })));
        let refused = load_initramfs(&memory, file(&[7; 5000]), 0..4096);
        assert!(matches!(refused, Err(BootError::MemoryTooSmall { available: 4096, .. })));
    }

    #[test]
    fn what_is_no_elf_file_is_no_kernel() {
        let memory = memory::allocate(2).unwrap();
        assert!(matches!(load_kernel(&memory, file(b"MZ and so on")), Err(BootError::Kernel(_))));
    }
}
