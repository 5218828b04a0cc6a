"""Drawing of the synthetic people: body (kinematic tree), shapes (shaded tubes with a depth buffer), look (clothes, skin, faces),
figure (a person as tubes), scene (background, clutter, light), compose (one picture, or a group, with its truth), writers.
"""

VERSION = 3  # raise when a picture or a label changes for the same arguments
