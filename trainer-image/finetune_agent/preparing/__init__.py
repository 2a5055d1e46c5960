"""The child that brings model and rows to this machine, and looks at every place before anything is trained."""
