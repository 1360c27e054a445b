//! The next definition of a name, found in the loader's own list of objects: for calls that come before our constructor.
//!
//! `dlsym` is no help there: the C library may not have been initialized yet, a name it does not find makes it allocate, and an
//! allocator or a sanitizer's runtime whose own start leads here would never return. The list (`r_debug`) and the objects'
//! symbol tables are data, and are only read.

use core::ffi::{CStr, c_char};
use core::sync::atomic::{AtomicUsize, Ordering};

/// The address the loader gave for a name that may be missing: a weak reference, read through the offset table, since the
/// language has no weak imports. 0 as well while this library has not been relocated.
macro_rules! weak {
    ($name:literal) => {{
        let at: usize;
        // SAFETY: reads one word of our own offset table.
        unsafe {
            core::arch::asm!(
                concat!(".weak ", $name),
                concat!("mov {}, qword ptr [rip + ", $name, "@GOTPCREL]"),
                out(reg) at,
                options(nostack, preserves_flags)
            );
        }
        at
    }};
}
pub(crate) use weak;

/// `struct r_debug` as far as it is used.
#[repr(C)]
struct Debug {
    version: i32,
    map: *const LinkMap,
}

/// `struct link_map`, the part that is public.
#[repr(C)]
struct LinkMap {
    base: usize,
    name: *const c_char,
    dynamic: *const Dyn,
    next: *const LinkMap,
    prev: *const LinkMap,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Dyn {
    tag: usize,
    value: usize,
}

/// `Elf64_Sym`
#[repr(C)]
#[derive(Clone, Copy)]
struct Sym {
    name: u32,
    info: u8,
    other: u8,
    section: u16,
    value: usize,
    size: usize,
}

const DT_HASH: usize = 4;
const DT_STRTAB: usize = 5;
const DT_SYMTAB: usize = 6;
const DT_GNU_HASH: usize = 0x6fff_fef5;
const DT_VERSYM: usize = 0x6fff_fff0;

/// Where an object keeps its names.
#[derive(Clone, Copy, Default)]
struct Tables {
    base: usize,
    strings: usize,
    symbols: usize,
    versions: usize,
    hash: usize,
    gnu_hash: usize,
}

/// Objects in the list at most: it is not followed for ever, whatever it is.
const MOST_OBJECTS: usize = 4096;

/// The next definition of `name` behind this library in the loader's list, 0 for none.
pub fn next(name: &CStr) -> usize {
    let us: usize;
    // SAFETY: the address of our own dynamic section, which the linker defines.
    unsafe {
        core::arch::asm!(
            ".hidden _DYNAMIC",
            "lea {}, [rip + _DYNAMIC]",
            out(reg) us,
            options(nostack, preserves_flags, nomem)
        );
    }
    let (mut map, mut behind) = (objects(), false);
    for _ in 0..MOST_OBJECTS {
        // SAFETY: null, or an entry of the loader's list.
        let Some(object) = (unsafe { map.as_ref() }) else { break };
        if behind {
            // SAFETY: an object of the loader's list, with its dynamic section.
            let mut tables = unsafe { Tables::of(object) };
            // SAFETY: as above.
            let mut found = unsafe { tables.find(name) };
            if found == 0 && tables.versions != 0 {
                // One that programs are not linked with any more.
                tables.versions = 0;
                // SAFETY: as above.
                found = unsafe { tables.find(name) };
            }
            if found != 0 {
                return found;
            }
        }
        behind |= object.dynamic as usize == us;
        map = object.next;
    }
    0
}

/// The loader's list: glibc exports `r_debug` itself, musl a pointer to it.
fn objects() -> *const LinkMap {
    let mut debug = weak!("_r_debug") as *const Debug;
    if debug.is_null() {
        let pointer = weak!("_dl_debug_addr") as *const *const Debug;
        // SAFETY: null, or musl's variable.
        debug = unsafe { pointer.as_ref() }.map_or(core::ptr::null(), |p| *p);
    }
    // SAFETY: null, or the loader's structure, filled in before it relocates anything.
    unsafe { debug.as_ref() }.map_or(core::ptr::null(), |d| d.map)
}

impl Tables {
    /// # Safety
    /// An object of the loader's list.
    unsafe fn of(object: &LinkMap) -> Tables {
        let mut tables = Tables { base: object.base, ..Tables::default() };
        let mut at = object.dynamic;
        while !at.is_null() {
            // SAFETY: the section ends with a tag of 0.
            let entry = unsafe { at.read() };
            if entry.tag == 0 {
                break;
            }
            // glibc has made these addresses absolute, musl (and glibc for the kernel's object) has not.
            let address = if entry.value < object.base { entry.value + object.base } else { entry.value };
            match entry.tag {
                DT_HASH => tables.hash = address,
                DT_STRTAB => tables.strings = address,
                DT_SYMTAB => tables.symbols = address,
                DT_GNU_HASH => tables.gnu_hash = address,
                DT_VERSYM => tables.versions = address,
                _ => {}
            }
            // SAFETY: not yet at the end.
            at = unsafe { at.add(1) };
        }
        tables
    }

    /// # Safety
    /// The tables of an object that is mapped.
    unsafe fn find(&self, name: &CStr) -> usize {
        if self.strings == 0 || self.symbols == 0 {
            return 0;
        }
        // SAFETY: the caller's duty; one of the two tables, as the object has it.
        unsafe {
            if self.gnu_hash != 0 {
                self.by_gnu_hash(name)
            } else if self.hash != 0 {
                self.by_hash(name)
            } else {
                0
            }
        }
    }

    unsafe fn word(&self, table: usize, index: usize) -> usize {
        // SAFETY: callers keep to the table's own bounds.
        unsafe { (table as *const u32).add(index).read_unaligned() as usize }
    }

    unsafe fn by_gnu_hash(&self, name: &CStr) -> usize {
        let hash = name.to_bytes().iter().fold(5381u32, |h, b| h.wrapping_mul(33).wrapping_add(u32::from(*b)));
        let table = self.gnu_hash;
        // SAFETY: the header's four words, then filter (64 bits an entry), buckets, chains.
        unsafe {
            let (buckets, first, filter) = (self.word(table, 0), self.word(table, 1), self.word(table, 2));
            if buckets == 0 {
                return 0;
            }
            let at = table + 16 + filter * 8;
            let chains = at + buckets * 4;
            let mut index = self.word(at, hash as usize % buckets);
            if index < first {
                return 0;
            }
            loop {
                let entry = self.word(chains, index - first) as u32;
                if entry | 1 == hash | 1 {
                    let found = self.symbol(index, name);
                    if found != 0 {
                        return found;
                    }
                }
                if entry & 1 != 0 {
                    return 0;
                }
                index += 1;
            }
        }
    }

    unsafe fn by_hash(&self, name: &CStr) -> usize {
        let hash = name.to_bytes().iter().fold(0u32, |h, b| {
            let h = (h << 4).wrapping_add(u32::from(*b));
            let high = h & 0xf000_0000;
            (h ^ high >> 24) & !high
        });
        // SAFETY: two words, then buckets, then as many chains as symbols.
        unsafe {
            let (buckets, chains) = (self.word(self.hash, 0), self.word(self.hash, 1));
            if buckets == 0 {
                return 0;
            }
            let mut index = self.word(self.hash, 2 + hash as usize % buckets);
            let mut steps = 0;
            while index != 0 && steps <= chains {
                let found = self.symbol(index, name);
                if found != 0 {
                    return found;
                }
                index = self.word(self.hash, 2 + buckets + index);
                steps += 1;
            }
        }
        0
    }

    /// The address of symbol `index` if it is a function of this name that others may bind to.
    unsafe fn symbol(&self, index: usize, name: &CStr) -> usize {
        const HIDDEN: u16 = 0x8000;
        // SAFETY: an index of the object's own hash table.
        let symbol = unsafe { (self.symbols as *const Sym).add(index).read_unaligned() };
        let (kind, binding) = (symbol.info & 15, symbol.info >> 4);
        // A function (2) or untyped (0), global (1) or weak (2), defined here. One that is chosen at run time (10) is left to
        // dlsym.
        if !matches!(kind, 0 | 2) || !matches!(binding, 1 | 2) || symbol.section == 0 || symbol.value == 0 {
            return 0;
        }
        if self.versions != 0 {
            // SAFETY: one half-word a symbol.
            let version = unsafe { (self.versions as *const u16).add(index).read_unaligned() };
            if version & HIDDEN != 0 {
                return 0;
            }
        }
        // Byte by byte: comparing strings is a function of the C library, and may be a sanitizer's.
        let text = (self.strings + symbol.name as usize) as *const u8;
        for (i, byte) in name.to_bytes_with_nul().iter().enumerate() {
            // SAFETY: an offset into the object's strings, each of which ends with a NUL; what came before was equal, no NUL.
            if unsafe { text.add(i).read_volatile() } != *byte {
                return 0;
            }
        }
        self.base + symbol.value
    }
}

/// In a slot: looked for and not there.
const ABSENT: usize = 1;

/// The address of a function that a slot is for, looked for at its first use; 0 if there is none.
#[cold]
pub fn first_use(slot: &AtomicUsize, name: &CStr, ours: usize) -> usize {
    match slot.load(Ordering::Relaxed) {
        ABSENT => 0,
        0 => {
            let found = next(name);
            let at = if found == 0 || found == ours { ABSENT } else { found };
            slot.store(at, Ordering::Relaxed);
            if at == ABSENT { 0 } else { at }
        }
        at => at,
    }
}

/// Fills a slot with what `dlsym` has found.
pub fn fill(slot: &AtomicUsize, at: usize, ours: usize) {
    // A chain that leads back to us would never end.
    if at != 0 && at != ours {
        slot.store(at, Ordering::Relaxed);
    } else if !is_address(slot.load(Ordering::Relaxed)) {
        slot.store(ABSENT, Ordering::Relaxed);
    }
}

/// Whether a slot's word is an address.
#[inline(always)]
pub fn is_address(word: usize) -> bool {
    word > ABSENT
}
