"""A student's own builders against the course's numbers and ours, and which rule of the course is probably broken.

The student's file is their own code: it is imported, as pytest would, in a process of its own, under a limit of time.
"""
