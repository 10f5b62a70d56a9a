"""What every room uses: values, the machine, files, progress. Imports nothing of the other rooms."""
