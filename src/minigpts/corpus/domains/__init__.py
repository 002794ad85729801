"""The domains that params.yaml can name, one file each."""
