"""What may be applied to staging and prod: rules over declared resources. Imports nothing of ours, does no I/O."""
