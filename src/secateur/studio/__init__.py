"""`secateur studio`: a page in the browser that draws three ways side by side and searches. It computes nothing itself.

app    the page: what is where, and which event asks for what; the only file that imports gradio
html   what the page shows of pictures, figures, schedules and searches
live   a long job in a thread of its own, whose progress is seen and which can be stopped
work   a loaded pipe, and the generators behind the page
"""
