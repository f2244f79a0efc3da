//! Guests of a few instructions, in 64-bit mode as a kernel is entered.

use std::{
    fs::File,
    io::{Seek, Write},
};

/// Where they are loaded and start.
const START: u64 = 0x20_0000;

/// Writes a byte to the serial line.
pub(crate) fn say(byte: u8) -> Vec<u8> {
    // mov dx, 0x3f8; mov al, byte; out dx, al
    vec![0x66, 0xba, 0xf8, 0x03, 0xb0, byte, 0xee]
}

/// Writes a byte to the serial line for ever.
pub(crate) fn say_for_ever(byte: u8) -> Vec<u8> {
    // out dx, al; jmp to it
    [say(byte).as_slice(), &[0xeb, 0xfd]].concat()
}

/// Asks the keyboard controller for a reset.
pub(crate) fn reset() -> Vec<u8> {
    // mov dx, 0x64; mov al, 0xfe; out dx, al
    vec![0x66, 0xba, 0x64, 0x00, 0xb0, 0xfe, 0xee]
}

/// Executes an undefined instruction where there is no interrupt table.
pub(crate) fn fault() -> Vec<u8> {
    // ud2
    vec![0x0f, 0x0b]
}

/// Jumps to an address below 1 GiB that is no memory.
pub(crate) fn jump_to(address: u32) -> Vec<u8> {
    // mov eax, address; jmp rax
    [&[0xb8], address.to_le_bytes().as_slice(), &[0xff, 0xe0]].concat()
}

/// A `vmlinux` that consists of this code.
pub(crate) fn kernel(code: &[Vec<u8>]) -> File {
    let code = code.concat();
    let len = code.len() as u64;
    let mut file = Vec::new();
    // The ELF header: a 64-bit executable for x86-64, with one program header of 56 bytes behind these 64.
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0");
    [START, 64, 0].iter().for_each(|word| file.extend(word.to_le_bytes()));
    file.extend(b"\0\0\0\0\x40\0\x38\0\x01\0\0\0\0\0\0\0");
    // The program header: to be loaded, executable, from the file's second page.
    file.extend(b"\x01\0\0\0\x05\0\0\0");
    [0x1000, START, START, len, len, 0x1000].iter().for_each(|word| file.extend(word.to_le_bytes()));
    file.resize(0x1000, 0);
    file.extend(code);
    temporary(&file)
}

/// A file without a name.
pub(crate) fn temporary(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file.rewind().unwrap();
    file
}
