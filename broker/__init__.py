"""Messages between processes: the broker port and its back ends, the embedded server, subjects, the wire format."""
