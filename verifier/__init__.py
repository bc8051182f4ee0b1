"""The verifier: runs the target model over draft trees and streams its words."""
