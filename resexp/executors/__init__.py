"""What trains run folders: for now processes on this machine."""
