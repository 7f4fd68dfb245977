"""What happens next, decided without waiting: no I/O, no Trio."""
