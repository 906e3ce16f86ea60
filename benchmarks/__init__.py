"""The measured comparison of igb with the script a researcher would otherwise write."""
