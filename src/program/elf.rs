//! What an ELF file says of itself, as far as a preload is concerned.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use object::read::elf::{Dyn, FileHeader, ProgramHeader, Sym};
use object::{Endianness, ReadCache, elf};

/// The data symbol by which the preload library is known; its value is the ABI number.
pub const PRELOAD_SYMBOL: &[u8] = b"nlmmap_preload_abi";

/// The instruction set a file was made for: what must be equal for two objects to share a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// `ELFCLASS32` or `ELFCLASS64`.
    pub class: elf::FileClass,
    /// `ELFDATA2LSB` or `ELFDATA2MSB`.
    pub data: elf::DataEncoding,
    /// `e_machine`.
    pub machine: elf::Machine,
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let wide = self.class == elf::ELFCLASS64;
        let big = self.data == elf::ELFDATA2MSB;
        let name = match self.machine {
            elf::EM_386 => "i386",
            elf::EM_X86_64 if wide => "x86_64",
            elf::EM_X86_64 => "x32",
            elf::EM_ARM => "arm",
            elf::EM_AARCH64 => "aarch64",
            elf::EM_RISCV if wide => "riscv64",
            elf::EM_RISCV => "riscv32",
            elf::EM_PPC64 if big => "ppc64",
            elf::EM_PPC64 => "ppc64le",
            elf::EM_PPC => "ppc",
            elf::EM_S390 => "s390x",
            elf::EM_MIPS => "mips",
            elf::EM_LOONGARCH => "loongarch64",
            other => {
                let bits = if wide { 64 } else { 32 };
                return write!(f, "{bits}-bit machine {}", other.0);
            }
        };
        f.write_str(name)
    }
}

/// The facts.
#[derive(Clone, Debug)]
pub struct Facts {
    /// What it runs on.
    pub machine: Machine,
    /// The dynamic linker it asks for (`PT_INTERP`).
    pub interpreter: Option<OsString>,
    /// It has a dynamic section with `DF_1_PIE`.
    pub pie: bool,
    /// It has a dynamic section.
    pub dynamic: bool,
    /// It is itself a dynamic linker.
    pub linker: bool,
    /// It was made by the Go tool chain.
    pub go: bool,
    /// The value of [`PRELOAD_SYMBOL`], when it is exported.
    pub preload_abi: Option<u32>,
}

/// Why a file gives no facts.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The magic number is missing.
    #[error("not an ELF file")]
    NotElf,
    /// It begins as an ELF file and is none.
    #[error("damaged ELF file: {0}")]
    Damaged(#[from] object::read::Error),
}

/// Whether `head`, the first bytes of a file, begins an ELF file.
pub fn is_elf(head: &[u8]) -> bool {
    head.starts_with(&elf::ELFMAG)
}

/// Reads the machine from the first bytes. No more than the fixed head is needed for it, so a file of a foreign
/// machine is told from a damaged one.
pub fn machine(head: &[u8]) -> Option<Machine> {
    if !is_elf(head) {
        return None;
    }
    let (class, data) = (elf::FileClass(*head.get(4)?), elf::DataEncoding(*head.get(5)?));
    let bytes = [*head.get(18)?, *head.get(19)?];
    let machine = match data {
        elf::ELFDATA2LSB => u16::from_le_bytes(bytes),
        elf::ELFDATA2MSB => u16::from_be_bytes(bytes),
        _ => return None,
    };
    Some(Machine { class, data, machine: elf::Machine(machine) })
}

/// Reads the facts of the file at `path`.
pub fn read(path: &Path) -> Result<Facts, ReadError> {
    let mut file = File::open(path)?;
    let mut head = Vec::new();
    Read::by_ref(&mut file).take(20).read_to_end(&mut head)?;
    if !is_elf(&head) {
        return Err(ReadError::NotElf);
    }
    file.seek(SeekFrom::Start(0))?;
    let cache = ReadCache::new(file);
    match machine(&head).map(|m| m.class) {
        Some(elf::ELFCLASS32) => facts::<elf::FileHeader32<Endianness>>(&cache, &head),
        _ => facts::<elf::FileHeader64<Endianness>>(&cache, &head),
    }
}

fn facts<H: FileHeader<Endian = Endianness>>(cache: &ReadCache<File>, head: &[u8]) -> Result<Facts, ReadError> {
    let header = H::parse(cache)?;
    let endian = header.endian()?;
    let machine = machine(head).ok_or(ReadError::NotElf)?;
    let mut facts =
        Facts { machine, interpreter: None, pie: false, dynamic: false, linker: false, go: false, preload_abi: None };
    for segment in header.program_headers(endian, cache)? {
        if let Some(name) = segment.interpreter(endian, cache)? {
            facts.interpreter = Some(OsString::from_vec(name.to_vec()));
        }
        if let Some(entries) = segment.dynamic(endian, cache)? {
            facts.dynamic = true;
            for entry in entries {
                if entry.tag(endian) == elf::DT_FLAGS_1 {
                    facts.pie |= entry.val(endian) & elf::DF_1_PIE.0 != 0;
                }
            }
        }
    }
    // Packers damage or drop the section table, which nothing needs to run a program: no table, no such facts.
    let Ok(sections) = header.sections(endian, cache) else {
        return Ok(facts);
    };
    facts.go = [&b".go.buildinfo"[..], b".note.go.buildid"]
        .iter()
        .any(|name| sections.section_by_name(endian, name).is_some());
    if facts.interpreter.is_some() {
        return Ok(facts);
    }
    let symbols = sections.symbols(endian, cache, elf::SHT_DYNSYM)?;
    for symbol in symbols.iter().filter(|s| !s.is_undefined(endian)) {
        match symbols.symbol_name(endian, symbol)? {
            // The dynamic linkers of both C libraries export it, and nothing else does.
            b"__tls_get_addr" => facts.linker = true,
            name if name == PRELOAD_SYMBOL => {
                let at = symbol.st_value(endian).into();
                for segment in header.program_headers(endian, cache)? {
                    if let Ok(Some(bytes)) = segment.data_range(endian, cache, at, 4) {
                        facts.preload_abi = word(bytes, endian);
                    }
                }
            }
            _ => {}
        }
    }
    Ok(facts)
}

fn word(bytes: &[u8], endian: Endianness) -> Option<u32> {
    let word = bytes.try_into().ok()?;
    Some(match endian {
        Endianness::Little => u32::from_le_bytes(word),
        Endianness::Big => u32::from_be_bytes(word),
    })
}
