"""Words of a request and of a card, in six languages: cut, compared, translated."""
