//! Who is told that an endpoint loses or holds messages: nobody, unless somebody listens. It is counted all the same.

use crate::endpoint::Endpoint;
use core::sync::atomic::{AtomicPtr, Ordering};

/// What has happened to a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// Lost: the ring, or the memory beside it, is full.
    Lost,
    /// Lost by the kernel: the socket's receive buffer was full.
    LostByKernel,
    /// It waits in the socket, and is not part of a dump: the ring was found full again.
    Held,
}

/// Is called with the endpoint's lock held, and must not sleep.
pub type Listener = fn(&Endpoint, Trouble);

static LISTENER: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// Has `listener` told of every message that is lost, and of every look that finds some held.
pub fn listen(listener: Listener) {
    LISTENER.store(listener as *mut (), Ordering::Relaxed);
}

/// Counts it by its cause, and tells the listener.
#[cold]
pub fn report(endpoint: &Endpoint, trouble: Trouble) {
    if let Some(control) = endpoint.control() {
        let counters = &control.counters;
        match trouble {
            Trouble::LostByKernel => control.count(&counters.lost_by_kernel, 1),
            Trouble::Lost if !endpoint.is_full() => control.count(&counters.lost_unread, 1),
            Trouble::Lost => {}
            Trouble::Held => control.count(&counters.held, 1),
        }
    }
    let at = LISTENER.load(Ordering::Relaxed);
    if !at.is_null() {
        // SAFETY: stored by `listen`, from a function of this very type.
        let listener = unsafe { core::mem::transmute::<*mut (), Listener>(at) };
        listener(endpoint, trouble);
    }
}
