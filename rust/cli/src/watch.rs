// SPDX-License-Identifier: GPL-2.0

//! `rustmasq watch`: shows how NAT translated each new flow, as it happens, and when flows end.

use crate::{
    arguments,
    ends::{Ends, FlowEnd},
    json,
    lost::Lost,
    output::{say, screen_width, text_of, Output},
    readers::{
        events::{parse_lost, Endpoint, Flow, Tuple},
        namespaces::Namespaces,
        tracefs::Instance,
    },
    signals,
    table::Table,
    End, Failure,
};
use jiff::tz::TimeZone;
use nix::{
    errno::Errno,
    poll::{poll, PollFd, PollFlags, PollTimeout},
    sys::signalfd::SignalFd,
    time::{clock_gettime, ClockId},
};
use std::{io, os::fd::AsFd, time::Instant};

/// The number of bytes of events that are read and shown at a time.
const BATCH: usize = 1 << 18;

/// Shows flows until a signal comes, nobody reads the output, or an error occurs.
pub fn run(options: &arguments::Watch) -> Result<(), End> {
    let signals = signals::block()?;
    let instance = Instance::new()?;
    let ends = options.end.then(Ends::new).transpose()?;
    say("watching");
    let mut viewer = Viewer::new(options);
    let ended = follow(&mut viewer, &instance, ends, &signals);
    viewer.report_lost(Lost::rest);
    ended
}

/// Shows flows until the watch ends.
fn follow(
    viewer: &mut Viewer<'_>,
    instance: &Instance,
    mut ends: Option<Ends>,
    signals: &SignalFd,
) -> Result<(), End> {
    let mut output = Output::new(signals);
    output.write(&viewer.header())?;
    let mut events = Vec::new();
    loop {
        if !wait(instance, ends.as_ref(), signals)? && !instance.is_enabled() {
            return Err(Failure::new(
                "the event was turned off, as it is when the module rustmasq is removed",
            )
            .into());
        }
        instance.read(&mut events, BATCH)?;
        let whole = events
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |last| last + 1);
        output.write(&viewer.show_begins(&events[..whole]))?;
        events.drain(..whole);
        if let Some(ends) = &mut ends {
            output.write(&viewer.show_ends(ends))?;
            ends.search_again();
        }
        let now = Instant::now();
        viewer.report_lost(|lost| lost.due(now));
    }
}

/// Waits for events or ends of flows, for at most a second. Returns whether there are any.
fn wait(instance: &Instance, ends: Option<&Ends>, signals: &SignalFd) -> Result<bool, End> {
    let stdout = io::stdout();
    let mut ready = vec![
        PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        // Errors, as when nobody reads it, are reported without asking.
        PollFd::new(stdout.as_fd(), PollFlags::empty()),
        PollFd::new(instance.pipe()?.as_fd(), PollFlags::POLLIN),
    ];
    let sockets = ends.into_iter().flat_map(Ends::sockets);
    ready.extend(sockets.map(|socket| PollFd::new(socket, PollFlags::POLLIN)));
    match poll(&mut ready, PollTimeout::from(1000_u16)) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(Failure::io("poll", &error.into()).into()),
    }
    let mut is_ready = ready.iter().map(|each| each.any().unwrap_or(true));
    if is_ready.by_ref().take(2).any(|ready| ready) {
        return Err(End::Wanted);
    }
    Ok(is_ready.any(|ready| ready))
}

/// Turns events and ends into the lines to show.
struct Viewer<'a> {
    options: &'a arguments::Watch,
    table: Option<Table>,
    /// A line that is no event is reported once.
    understood: bool,
    /// Events and ends that were lost.
    lost: [Lost; 2],
}

impl<'a> Viewer<'a> {
    fn new(options: &'a arguments::Watch) -> Self {
        let coloured = anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never;
        let table =
            (!options.json).then(|| Table::new(screen_width(), coloured, TimeZone::system()));
        Self {
            options,
            table,
            understood: true,
            lost: [Lost::new("events"), Lost::new("ends of flows")],
        }
    }

    fn header(&mut self) -> Vec<u8> {
        let mut shown = Vec::new();
        if let Some(table) = &mut self.table {
            table.append_header(&mut shown);
        }
        shown
    }

    /// Shows the header once more if the terminal's width changed.
    fn resize(&mut self, shown: &mut Vec<u8>) {
        if let Some(table) = &mut self.table {
            if table.resize(screen_width()) {
                table.append_header(shown);
            }
        }
    }

    /// Returns what to show for whole lines of the trace pipe.
    fn show_begins(&mut self, lines: &[u8]) -> Vec<u8> {
        let mut shown = Vec::new();
        if lines.is_empty() {
            return shown;
        }
        self.resize(&mut shown);
        // Looked up anew each time, because inode numbers of removed namespaces are reused.
        let namespaces = Namespaces::find();
        let clock_offset = seconds(ClockId::CLOCK_REALTIME) - seconds(ClockId::CLOCK_MONOTONIC);
        for line in lines
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            let line = text_of(line);
            match Flow::parse(&line, &namespaces, clock_offset) {
                Some(flow) => self.show_begin(&mut shown, &flow),
                None => self.report(&line),
            }
        }
        shown
    }

    fn show_begin(&mut self, shown: &mut Vec<u8>, flow: &Flow<'_>) {
        if !matches(
            self.options,
            flow.proto,
            [flow.original, flow.reply],
            &flow.moved,
        ) {
            return;
        }
        match &mut self.table {
            Some(table) => table.append_begin(shown, flow),
            // Writing to memory does not fail, and neither does a flow's conversion.
            None => drop(json::append_line(shown, flow)),
        }
    }

    /// Returns what to show for the ends of flows that have come.
    fn show_ends(&mut self, ends: &Ends) -> Vec<u8> {
        let mut shown = Vec::new();
        let mut namespaces = None;
        let are_lost = ends.receive(|netns, ended| {
            let namespaces = namespaces.get_or_insert_with(Namespaces::find);
            let now = (seconds(ClockId::CLOCK_REALTIME) * 1e6).round() / 1e6;
            let end = FlowEnd::new(ended, netns, namespaces, now);
            if !matches(
                self.options,
                &end.proto,
                [end.original, end.reply],
                &end.moved,
            ) {
                return;
            }
            match &mut self.table {
                Some(table) => table.append_end(&mut shown, &end),
                None => drop(json::append_line(&mut shown, &end)),
            }
        });
        if are_lost {
            self.lost[1].add(None);
        }
        shown
    }

    /// Reports what was lost, if the function returns a report of it.
    fn report_lost(&mut self, report: impl FnMut(&mut Lost) -> Option<String>) {
        self.lost
            .iter_mut()
            .filter_map(report)
            .for_each(|message| say(&message));
    }

    /// Takes account of a line that is no flow.
    fn report(&mut self, line: &str) {
        match parse_lost(line) {
            Some(count) => self.lost[0].add(count),
            None if self.understood => {
                say(&format!(
                    "this line of the trace, and perhaps others, cannot be understood: {line}"
                ));
                self.understood = false;
            }
            None => {}
        }
    }
}

/// Returns the time of the clock in seconds. No kernel lacks the clocks that are asked for.
fn seconds(clock: ClockId) -> f64 {
    clock_gettime(clock).map_or(0.0, |time| {
        time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9
    })
}

/// Returns whether the flow passes all filters of the command line.
fn matches(options: &arguments::Watch, proto: &str, tuples: [Tuple; 2], moved: &[&str]) -> bool {
    let ends = tuples.map(|tuple| [tuple.source, tuple.destination]);
    let any_end = |wanted: &dyn Fn(&Endpoint) -> bool| ends.iter().flatten().any(wanted);
    let has_address = |end: &Endpoint| {
        options
            .address
            .iter()
            .any(|network| network.contains(end.address))
    };
    (options.protocol.is_empty() || options.protocol.iter().any(|name| name == proto))
        && (options.address.is_empty() || any_end(&has_address))
        && (options.port.is_empty() || any_end(&|end| options.port.contains(&end.port)))
        && (!options.moved_only || !moved.is_empty())
}
