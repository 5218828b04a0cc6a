"""Drawing of the synthetic people: body (kinematic tree), shapes (shaded volumes with a depth buffer), look (clothes, skin, faces),
figure (a person as volumes), scene (background, clutter, light), compose (one picture, or a group, with its truth), writers.
"""

VERSION = 2  # raise when a picture or a label changes for the same arguments
