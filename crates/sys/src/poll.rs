//! Waiting for several descriptors at once, without a thread for each.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    time::Duration,
};

/// The readiness that is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Something can be read, or the end has come.
    Read,
    /// Something can be written, or nobody reads any more.
    Write,
}

/// Waits until one of the descriptors is ready or the time has passed (`None`: no limit), and says
/// which are; a hang-up or an error counts as ready, the read or write that follows will tell.
/// Places that hold `None` are never ready. A signal ends the wait early, with nothing ready.
/// Timeouts are rounded up to the millisecond, so that a caller that waits for an instant does not
/// wake before it.
///
/// # Errors
/// What poll(2) says, but for `EINTR`.
pub fn ready<const N: usize>(fds: [Option<(BorrowedFd<'_>, Interest)>; N], timeout: Option<Duration>) -> io::Result<[bool; N]> {
    // poll(2) skips negative descriptors, which saves building a list of those that are still open.
    let mut polled = fds.map(|fd| match fd {
        Some((fd, Interest::Read)) => libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 },
        Some((fd, Interest::Write)) => libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLOUT, revents: 0 },
        None => libc::pollfd { fd: -1, events: 0, revents: 0 },
    });
    let millis = match timeout {
        None => -1,
        Some(limit) => i32::try_from(limit.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX),
    };
    // SAFETY: the pointer and the length are those of `polled`, which outlives the call; the
    // descriptors are borrowed for its length.
    let count = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, millis) };
    if count < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
        return Ok([false; N]);
    }
    Ok(polled.map(|fd| fd.revents != 0))
}

/// Makes reads and writes of this end answer [`io::ErrorKind::WouldBlock`] instead of waiting.
///
/// # Errors
/// What ioctl(2) says.
pub fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    Ok(rustix::io::ioctl_fionbio(fd, true)?)
}

/// Returns how many bytes lie in a pipe and were not read yet, asked at either end.
///
/// # Errors
/// What ioctl(2) says.
pub fn unread(fd: impl AsFd) -> io::Result<u64> {
    Ok(rustix::io::ioctl_fionread(fd)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn says_which_ends_are_ready_and_skips_empty_places() {
        let (reader, writer) = io::pipe().unwrap();
        set_nonblocking(&reader).unwrap();
        assert_eq!((&reader).read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let now = Some(Duration::ZERO);
        let both = || ready([Some((reader.as_fd(), Interest::Read)), None, Some((writer.as_fd(), Interest::Write))], now).unwrap();
        assert_eq!(both(), [false, false, true]);
        (&writer).write_all(b"x").unwrap();
        assert_eq!(both(), [true, false, true]);
        drop(reader);
        assert_eq!(ready([Some((writer.as_fd(), Interest::Write))], None).unwrap(), [true], "nobody reads any more");
    }
}
