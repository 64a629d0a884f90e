"""The run folder: what lies in it, who may write it, and how each file is read and written."""
