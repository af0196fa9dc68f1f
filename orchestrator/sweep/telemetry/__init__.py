"""What a running sweep shows to the outside: metrics, their dashboard, structured logs."""
