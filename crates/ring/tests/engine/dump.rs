//! A running dump: parts sized by what the reader announces (`netlink_dump` of kernels from 3.19 on).

use crate::message::{fill, header, honest};
use std::collections::VecDeque;

/// The least a part is allocated.
const GOODSIZE: usize = 3776;

#[derive(Clone, Debug, Default)]
pub struct Dump {
    left: VecDeque<Vec<u8>>,
    done: bool,
}

/// Message `i` of a dump, `len` bytes before padding.
pub fn message(i: u32, len: usize) -> Vec<u8> {
    let len = honest(len.max(20));
    let mut m = header(len, 24, 2);
    m.extend(i.to_ne_bytes().map(|b| if b == crate::mock::POISON { 0 } else { b }));
    m.extend(fill(i, len - m.len()));
    m.resize(len.next_multiple_of(4), 0);
    m
}

impl Dump {
    pub fn new(lens: &[usize]) -> Dump {
        Dump { left: lens.iter().enumerate().map(|(i, len)| message(i as u32, *len)).collect(), done: false }
    }

    /// Everything it holds, as one chain, its end included.
    pub fn whole(&self) -> Vec<u8> {
        let mut all: Vec<u8> = self.left.iter().map(Vec::as_slice).collect::<Vec<_>>().concat();
        all.extend(end());
        all
    }

    pub fn is_over(&self) -> bool {
        self.done
    }

    /// The next part: what fits, at least one message; the end where there is room for it.
    pub fn part(&mut self, announced: usize) -> Vec<u8> {
        let room = announced.max(GOODSIZE);
        let mut part = Vec::new();
        while let Some(m) = self.left.front() {
            if !part.is_empty() && part.len() + m.len() > room {
                return part;
            }
            // At once: byte by byte takes the interpreter a second for a dump.
            part.extend_from_slice(m);
            self.left.pop_front();
        }
        if part.is_empty() || part.len() + end().len() <= room {
            part.extend(end());
            self.done = true;
        }
        part
    }
}

fn end() -> Vec<u8> {
    let mut m = header(20, 3, 2);
    m.extend([0; 4]);
    m
}
