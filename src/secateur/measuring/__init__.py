"""How fast, how large and how good: measured side by side, and shown.

timing     latency, memory, hardware
quality    fidelity and accuracy as functions of images
variants   what is drawn side by side
compare    the one loop that draws and measures it
records    measurements as JSON
columns    the columns of every table
svg        drawings of schedules and curves
report     one HTML page from a record
"""
