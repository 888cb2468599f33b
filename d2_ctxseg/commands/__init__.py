"""The programs of this project; tools/, demo/ and train_net.py start them."""
