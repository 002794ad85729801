"""What a stranger's file, a kill or a full disk can do to the pipeline: tried by the thousand."""
