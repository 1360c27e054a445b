//! A file of copies of what passes through an endpoint's rings (`nlmmap_ring::tap`), read.
//!
//! Who writes it may do anything to it, so it is read and written by copy, and each record is judged.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nlmmap_ring::tap::{CAPACITY, Record, SNAP, Tap, kind};

use crate::sys;

/// Bytes that are read at once.
const PART: usize = 1 << 20;

/// One message or loss.
#[derive(Debug)]
pub struct Passed<'a> {
    pub record: Record,
    pub bytes: &'a [u8],
}

/// See the module.
#[derive(Debug)]
pub struct Copies {
    file: File,
    tail: u64,
    buffer: Vec<u8>,
}

fn offset_of(field: usize) -> u64 {
    field as u64
}

impl Copies {
    /// Of a file that is as it was made.
    pub fn new(file: File) -> Copies {
        Copies { file, tail: 0, buffer: Vec::new() }
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    fn word(&self, at: usize) -> io::Result<u64> {
        let mut word = [0; 8];
        self.file.read_exact_at(&mut word, offset_of(at))?;
        Ok(u64::from_ne_bytes(word))
    }

    /// Messages that found no room so far.
    pub fn dropped(&self) -> u64 {
        self.word(std::mem::offset_of!(Tap, dropped)).unwrap_or(0)
    }

    /// Hands on what has come since the last time, about a mebibyte of it at most, and says whether there may be more.
    pub fn each(&mut self, mut f: impl FnMut(Passed<'_>) -> io::Result<()>) -> io::Result<bool> {
        let head = self.word(std::mem::offset_of!(Tap, head))?;
        let ready = head.wrapping_sub(self.tail);
        if ready > CAPACITY as u64 {
            return Err(io::Error::other("the process has written nonsense"));
        }
        let at = self.tail as usize % CAPACITY;
        let len = (ready as usize).min(CAPACITY - at).min(PART + SNAP);
        self.buffer.resize(len, 0);
        self.file.read_exact_at(&mut self.buffer, (nlmmap_ring::sys::PAGE + at) as u64)?;
        let mut done = 0;
        while let Some(rest) = self.buffer.get(done..).filter(|rest| rest.len() >= size_of::<Record>()) {
            let record = sys::record(rest);
            let span = record.len as usize;
            if span < size_of::<Record>() || !span.is_multiple_of(size_of::<Record>()) || at + done + span > CAPACITY {
                return Err(io::Error::other("the process has written nonsense"));
            }
            let Some(whole) = rest.get(..span) else { break };
            let bytes = whole.get(size_of::<Record>()..).and_then(|b| b.get(..record.kept as usize)).unwrap_or(&[]);
            if record.kind != kind::PAD {
                f(Passed { record, bytes })?;
            }
            done += span;
        }
        self.tail = self.tail.wrapping_add(done as u64);
        let at = std::mem::offset_of!(Tap, tail);
        self.file.write_all_at(&self.tail.to_ne_bytes(), offset_of(at))?;
        Ok(done > 0 && (done as u64) < ready)
    }
}
