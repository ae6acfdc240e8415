"""How fast, how large and how good: measured side by side, and shown.

hardware   what a figure was measured on
timing     latency, in turns and in pairs
memory     the most memory in use at once
quality    fidelity and accuracy as functions of images
learned_scores  CLIP, PickScore, HPSv2, LPIPS, FID
variants   what is drawn side by side
plain_steps  how many plain steps come as near as a schedule
compare    the one loop that draws and measures it
records    measurements as JSON
gain       what a found schedule gains over fewer steps: the demo
columns    the columns of every table
finding    what a record found, in a few sentences
levels     at which noise levels calls are made
svg        a drawing of quality against cost, and the marks of series
charts     which rows, series and figures are drawn
report     one HTML page from a record
"""
